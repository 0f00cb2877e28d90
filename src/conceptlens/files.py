"""Writing results: under a temporary name, then renamed, with one clear line when it fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from conceptlens.errors import OutputError, one_line


@contextmanager
def into_folder(folder: str | Path) -> Iterator[Path]:
    """The folder, made if need be. An OSError inside becomes an `OutputError`; unfinished files are removed."""
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        yield target
    except OSError as error:
        for part in target.glob("*.part") if target.is_dir() else ():
            part.unlink(missing_ok=True)
        reason = error.strerror or one_line(error)
        raise OutputError(f"cannot write to {target}: {reason}. Choose another folder, or make room there.") from error


def write_image(path: Path, image: Image.Image) -> None:
    """Writes a PNG."""
    part = path.with_name(path.name + ".part")
    image.save(part, format="PNG")
    part.rename(path)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.rename(path)
