"""Writing results: all or nothing, also when the process is killed, with one clear line when it fails.

Files are written into a stage, a hidden folder inside the target, which its process holds a lock on. The complete
stage is renamed once: from then on the result exists. Its files then take their places, `maps.json` last and the
earlier one away first, so a folder that has a `maps.json` holds one whole result. Whoever next writes to or reads from
the folder finishes what a killed process left complete, and removes the stage of one that was killed earlier.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conceptlens.values.errors import OutputError, one_line

try:
    import fcntl
except ImportError:  # Windows: stages of killed processes stay, and two processes must not save into one folder
    fcntl = None

MANIFEST = "maps.json"
"""Tells how a result was made, and the `files` that belong to it."""
_STAGE, _COMPLETE, _REPLACED = ".conceptlens-", ".conceptlens-complete-", ".replaced"


@contextmanager
def into_folder(folder: str | Path) -> Iterator[Path]:
    """An empty folder to write into; its files move to `folder` when the block ends well, else they vanish.

    A `maps.json` among them replaces all files that the `maps.json` in `folder` lists.

    Raises:
        OutputError: in place of an OSError inside, and when a folder has the name of a file.
    """
    target = Path(folder)
    check_folder(target)
    stage, lock = None, None
    try:
        target.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            _tidy(target)
            stage = Path(tempfile.mkdtemp(prefix=_STAGE, dir=target))
            lock = _lock(stage)
        yield stage
        with _locked(target):
            _refuse_folders(stage, target)
            stage = stage.rename(target / stage.name.replace(_STAGE, _COMPLETE))
            _publish(stage, target)
    except OutputError:
        raise
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise OutputError(f"cannot write to {target}: {reason}. Choose another folder, or make room there.") from error
    finally:
        if stage is not None and not (stage / _REPLACED).exists():
            shutil.rmtree(stage, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def settle(folder: Path) -> None:
    """Finishes a result that a killed process left complete in a folder that is about to be read.

    Raises:
        OutputError: when it cannot be finished.
    """
    if not any(folder.glob(f"{_COMPLETE}*")):
        return
    try:
        with _locked(folder):
            _tidy(folder)
    except OSError as error:
        raise OutputError(
            f"cannot finish the interrupted save in {folder}: {error.strerror or one_line(error)}. Save it again."
        ) from error


def check_folder(folder: str | Path) -> None:
    """Raises an `OutputError` for what can be no folder of results, before anything is computed for it."""
    if _is_unusable(folder):
        raise OutputError(f"{str(folder)!r} can be no path. Choose another folder.")
    try:
        below = next((path for path in (Path(folder), *Path(folder).parents) if path.exists()), Path())
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}. Choose another folder.") from error
    if not below.is_dir():
        raise OutputError(f"cannot write to {folder}: {below} is a file. Choose another folder.")
    if why := why_unwritable(below):
        raise OutputError(f"cannot write to {folder}: {why}. Choose another folder.")


def why_unwritable(folder: Path) -> str | None:
    """Why nothing can be written in a folder, found by trying: rights say too much, as root's do of /proc."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror


def check_file(file: str | Path) -> None:
    """Raises an `OutputError` for what can be no file of results, before anything is computed for it."""
    path = Path(file)
    if _is_unusable(file) or not path.name:
        raise OutputError(f"{str(file)!r} names no file. Name one, such as photo.record.")
    if path.is_dir():
        raise OutputError(f"{path} is a folder. Name a file, such as {path / 'photo.record'}.")
    check_folder(path.parent)


def write_manifest(stage: Path, told: Mapping[str, Any]) -> None:
    """Writes the `maps.json` of a result: plain JSON values, and the names of all files of the stage."""
    names = sorted([path.name for path in stage.iterdir()] + [MANIFEST])
    write_text(stage / MANIFEST, json.dumps({**told, "files": names}, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8; bytes of paths that are no text (lone surrogates) are written as JSON's escapes."""
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def _is_unusable(path: str | Path) -> bool:
    try:
        return b"\0" in os.fsencode(path)
    except UnicodeEncodeError:
        return True


def _refuse_folders(stage: Path, target: Path) -> None:
    for path in sorted(stage.iterdir()):
        place = target / path.name
        if path.name != _REPLACED and place.is_dir() and not place.is_symlink():
            raise OutputError(f"cannot write {place}: a folder has this name. Move it, or choose another folder.")


def _tidy(target: Path) -> None:
    """Finishes complete stages, and removes others whose process is gone. Called with `target` locked."""
    for stage in sorted(target.glob(f"{_STAGE}*")):
        if stage.name.startswith(_COMPLETE):
            _refuse_folders(stage, target)
            _publish(stage, target)
        elif (lock := _lock(stage)) is not None:
            shutil.rmtree(stage, ignore_errors=True)
            os.close(lock)


def _publish(stage: Path, target: Path) -> None:
    """Moves the files of a complete stage to their places; undone when one cannot move, repeatable when killed."""
    replaced = stage / _REPLACED
    replaced.mkdir(exist_ok=True)
    new = [path.name for path in stage.iterdir() if path.name != _REPLACED]
    new.sort(key=lambda name: (name == MANIFEST, name))
    old = (_listed(target) | _listed(replaced)) - _listed(stage) if MANIFEST in new else set()
    away = sorted({*old, *new}, key=lambda name: (name != MANIFEST, name))
    moved: list[tuple[Path, Path]] = []
    try:
        for start, end, names in ((target, replaced, away), (stage, target, new)):
            for name in names:
                if start == stage or (start / name).is_symlink() or (start / name).is_file():
                    (start / name).replace(end / name)
                    moved.append((start / name, end / name))
    except BaseException:
        for start, end in reversed(moved):
            end.replace(start)
        replaced.rmdir()
        raise
    shutil.rmtree(stage, ignore_errors=True)


def saved_provenance(folder: Path) -> dict[str, Any]:
    """What the `maps.json` in a folder holds; empty where there is none that can be read."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _listed(folder: Path) -> set[str]:
    """The names of files that the `maps.json` in a folder says are of its result."""
    listed = saved_provenance(folder).get("files")
    names = listed if isinstance(listed, list) else []
    return {name for name in names if isinstance(name, str) and Path(name).name == name and not _is_unusable(name)}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone in a folder, among the processes and threads that come this way."""
    lock = _lock(folder, wait=True)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _lock(folder: Path, *, wait: bool = False) -> int | None:
    """A descriptor that locks a folder until it is closed; None where another has the lock, or there are no locks."""
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
