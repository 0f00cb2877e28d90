"""RowFile: one JSON line per image, appended as soon as it is scored, safe to interrupt at any moment."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from conceptlens.bench import report_file
from conceptlens.values.errors import ConceptlensError, one_line
from conceptlens.values.files import why_unwritable

Track = Callable[[Iterable[dict[str, Any]], int], Iterable[dict[str, Any]]]
"""Wraps rows as they come, for a progress bar; gets their number too."""
ROWS, RUN, REPORT = "rows.jsonl", "run.json", "report.json"


class RunError(ConceptlensError, ValueError):
    """A stored run cannot be read or gone on with."""


def check_folder(folder: Path) -> None:
    """Looks, before a model is opened, whether a run can be written there.

    Raises:
        RunError: when it cannot.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or why_unwritable(there):
        raise RunError(f"cannot write to {folder}: {there} is no folder that can be written. Choose another --out.")
    if (folder / REPORT).exists() and not (folder / RUN).exists():
        raise RunError(f"{folder} holds the report of a run, with no rows to go on from. Choose another --out.")


def fingerprint(settings: Mapping[str, Any]) -> str:
    """12 hexadecimal digits of the settings: equal settings, equal digits."""
    text = json.dumps(_as_json(settings), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they are read back: numbers that are keys have become text, and are sorted as such."""
    return json.loads(json.dumps(settings, default=list))


class RowFile:
    """The rows of one run in `folder/rows.jsonl`, with its settings in `folder/run.json`.

    Opening it drops a torn last line and the rows of images that failed, so that they are tried again. Only one
    process may have it open.

    Args:
        folder: of the run; made if it is not there.
        settings: all that the rows depend on.
        header: what else to note in `run.json`, such as the command and versions; may change between starts.

    Raises:
        RunError: when the folder holds a run with other settings, another process is writing to it, or it cannot be
            written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], header: Mapping[str, Any]) -> None:
        self.folder, self.settings = folder, _as_json(settings)
        self.recipe = fingerprint(self.settings)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / ROWS).open("a+b")
        except OSError as error:
            raise RunError(f"cannot write to {folder}: {error.strerror}. Choose another --out.") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise RunError(f"another process is writing to {folder}. Wait for it, or choose another --out.") from error
        try:
            self._check_settings()
            self.note(header)
            self.rows = self._recover()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._file.close()

    def note(self, header: Mapping[str, Any]) -> None:
        """Writes `run.json`: the settings and the rest of the header."""
        content = {"recipe": self.recipe, "settings": self.settings, **header}
        _replace(self.folder / RUN, json.dumps(content, indent=1) + "\n")

    def append(self, row: Mapping[str, Any]) -> None:
        """Writes one row, all of it or nothing that counts: a line without its end is dropped on the next start."""
        line = (json.dumps({**row, "recipe": self.recipe}) + "\n").encode()
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise RunError(
                f"cannot write to {self.folder / ROWS}: {error.strerror}. Make room, then repeat the command to go on."
            ) from error
        self.rows[str(row["id"])] = {**row, "recipe": self.recipe}

    def fill(
        self,
        ids: Sequence[str],
        rows_of: Callable[[list[str]], Iterable[dict[str, Any]]],
        track: Track = lambda rows, total: rows,
    ) -> list[dict[str, Any]]:
        """Appends rows for those `ids` that have none, and returns the rows of all of them.

        Args:
            ids: of the whole run.
            rows_of: makes the rows of some of them, one after another.
            track: wraps the rows as they come.
        """
        todo = [id_ for id_ in ids if id_ not in self.rows]
        for row in track(rows_of(todo), len(todo)):
            self.append(row)
        return [self.rows[id_] for id_ in ids if id_ in self.rows]

    def _check_settings(self) -> None:
        path = self.folder / RUN
        if not path.exists():
            return
        try:
            stored = json.loads(path.read_text())["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is damaged ({one_line(error)}). Choose another --out, or remove it.") from error
        if fingerprint(stored) != self.recipe:
            name, old, new = _difference(stored, self.settings)
            raise RunError(
                f"{self.folder} holds a run with other settings: {name} was {old!r}, now {new!r}. "
                "Choose another --out, or remove the folder."
            )

    def _recover(self) -> dict[str, dict[str, Any]]:
        self._file.seek(0)
        stored = self._file.read()
        rows, lines, dropped = {}, [], bool(stored) and not stored.endswith(b"\n")
        for line in stored.split(b"\n"):
            row = _parsed(line)
            if row is None or "error" in row or row["id"] in rows:
                dropped |= bool(line)
                continue
            if row.get("recipe") != self.recipe:
                raise RunError(
                    f"{self.folder / ROWS} has rows of another recipe ({row.get('recipe')}, now {self.recipe}). "
                    "Choose another --out, or remove the folder."
                )
            rows[row["id"]] = row
            lines.append(line)
        if dropped:
            self._rewrite(lines)
        return rows

    def _rewrite(self, lines: list[bytes]) -> None:
        """Writes aside and renames; the lock moves to the new file before it takes the name."""
        path = self.folder / ROWS
        aside = path.with_suffix(".tmp")
        fresh = aside.open("w+b")
        fcntl.flock(fresh, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fresh.write(b"".join(line + b"\n" for line in lines))
        fresh.flush()
        os.fsync(fresh.fileno())
        aside.replace(path)
        self._file.close()
        self._file = fresh


def read_rows(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What `run.json` says, and the whole rows of a run; of two rows with one id, the last.

    A folder without a `run.json` may hold a `report.json` (see `write_report`) instead.

    Raises:
        RunError: when the folder holds no run, or rows of several recipes.
    """
    path = folder / REPORT
    if path.exists() and not (folder / RUN).exists():
        try:
            return report_file.from_text(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise RunError(f"{path} is damaged ({one_line(error)}). Get it again, or remove it.") from error
    try:
        header = json.loads((folder / RUN).read_text())
        lines = (folder / ROWS).read_bytes().split(b"\n")
    except (OSError, ValueError) as error:
        raise RunError(f"{folder} holds no run ({one_line(error)}). Make one with conceptlens bench --out.") from error
    rows = {row["id"]: row for row in map(_parsed, lines) if row is not None}
    for row in rows.values():
        if row.get("recipe", header.get("recipe")) != header.get("recipe"):
            raise RunError(
                f"{folder / ROWS} mixes rows of two recipes ({row['recipe']} and {header.get('recipe')}): other "
                "settings, or another protocol, and no figure can be of both. Keep each run in a folder of its own."
            )
    return header, list(rows.values())


def write_report(folder: Path, header: Mapping[str, Any], rows: report_file.Rows) -> None:
    """Writes a finished run as `report.json`, which `read_rows` reads; the folder is made if it is not there.

    Raises:
        RunError: when it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / REPORT, report_file.to_text(header, rows))
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}. Choose another folder.") from error


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "id" in row else None


def _replace(path: Path, text: str) -> None:
    aside = path.with_suffix(".tmp")
    aside.write_text(text)
    aside.replace(path)


def _difference(old: object, new: object, name: str = "settings") -> tuple[str, Any, Any]:
    """The first place where two settings differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), key if name == "settings" else f"{name}.{key}")
    return name, old, new
