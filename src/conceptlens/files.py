"""Writing results: all or nothing, with one clear line when it fails."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conceptlens.errors import OutputError, one_line


@contextmanager
def into_folder(folder: str | Path) -> Iterator[Path]:
    """An empty folder to write into; its files move to `folder` when the block ends well, else they vanish.

    Raises:
        OutputError: in place of an OSError inside.
    """
    target = Path(folder)
    stage: Path | None = None
    try:
        target.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".conceptlens-", dir=target))
        yield stage
        for path in sorted(stage.iterdir()):
            path.replace(target / path.name)
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise OutputError(f"cannot write to {target}: {reason}. Choose another folder, or make room there.") from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
