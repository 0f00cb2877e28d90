"""classes.txt: which number in a label map is which class, in the forms that releases have."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from conceptlens.bench.datasets.base import DataError
from conceptlens.values.errors import one_line

Row = tuple[int, int, str]
"""Line of the file, number of the class, its name."""
NUMBERS, NAMES = ("idx", "id", "index", "number"), ("name", "class", "label", "names", "classes", "labels")
"""Heads of columns, in small letters."""
NO_LABEL = ("unlabeled", "unlabelled", "void")
"""What releases call the number of pixels without a label."""
_NUMBERED = re.compile(r"(\d+)(?:\s*[:=,]\s*|\s+|$)(.*)")
_NO_NAME = re.compile(r"[\t:=|#<>{}\[\]\"]|^'|^[-*]\s|,$|\d{4}|(?:^|[\s,])-?\d[\d.]*(?:[\s,]|$)|^[\W\d_]+$")
"""Signs that a line holds more than a name, or none: columns, code, file names, numbers."""


def read_classes(path: Path) -> dict[int, str]:
    """Names by the numbers that label maps hold; "" for a number without a name.

    A file has one name per line, the first for 0, where an empty line leaves its number without a name; or "number
    name", "number: name" or "number<tab>name"; or tabs or commas with a head, as ADE20K's objectInfo150. Names that
    mean "no label" (`NO_LABEL`) name nothing. COCO-Stuff's labels.txt counts from "0: unlabeled", and its label maps
    from person = 0: the numbers returned are those of the maps.

    Raises:
        DataError: for a line in another form, and for a number or a name that stands twice; it names the lines.
    """
    try:
        lines = [line.rstrip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path} ({one_line(error)}). Write one name per line, in UTF-8.") from error
    names: dict[int, str] = {}
    places: dict[int | str, int] = {}
    for line, number, text in _table(path, lines) or _numbered(path, lines) or _plain(path, lines):
        name = "" if text.casefold() in NO_LABEL else text
        for key in (number, name):
            if key != "" and places.setdefault(key, line) != line:
                raise DataError(
                    f"{path} has {key!r} in line {places[key]} and again in line {line}. Name each class once."
                )
        names[number] = name
    if not any(names.values()):
        raise DataError(f"{path} names no class. Write one name per line, the first for label 0.")
    return names


def _table(path: Path, lines: list[str]) -> list[Row]:
    """Rows below a head that names a column of numbers and one of names; none where there is no such head."""
    separator = "\t" if lines and "\t" in lines[0] else ","
    head = [cell.strip().casefold() for cell in lines[0].split(separator)] if lines else []
    number, name = (next((head.index(n) for n in known if n in head), None) for known in (NUMBERS, NAMES))
    if number is None or name is None:
        return []
    rows = []
    for line, row in enumerate(csv.reader(lines[1:], delimiter=separator), 2):
        if row and not (len(row) == len(head) and row[number].strip().isdigit()):
            raise _refused(path, line, lines[line - 1])
        if row:
            rows.append((line, int(row[number]), row[name].strip().replace(";", ", ")))
    return rows


def _numbered(path: Path, lines: list[str]) -> list[Row]:
    """Rows that begin with their number; none where no line does."""
    matches = [(line, text, _NUMBERED.fullmatch(text.strip())) for line, text in enumerate(lines, 1) if text]
    if not matches or matches[0][2] is None:
        return []
    rows = []
    for line, text, match in matches:
        if match is None:
            raise _refused(path, line, text)
        rows.append((line, int(match[1]), _name(path, line, match[2]) if match[2] else ""))
    if [(number, name) for _, number, name in rows[:2]] == [(0, "unlabeled"), (1, "person")]:
        return [(line, number - 1, name) for line, number, name in rows[1:]]
    return rows


def _plain(path: Path, lines: list[str]) -> list[Row]:
    if lines and lines[0].strip().casefold() in NAMES:
        raise _refused(path, 1, lines[0])
    return [(number + 1, number, _name(path, number + 1, text) if text else "") for number, text in enumerate(lines)]


def _name(path: Path, line: int, text: str) -> str:
    if _NO_NAME.search(text.strip()):
        raise _refused(path, line, text)
    return text.strip().replace(";", ", ")


def _refused(path: Path, line: int, text: str) -> DataError:
    return DataError(
        f"line {line} of {path} is {text[:60]!r}, which is no class name like the others'. Write one name per line, or "
        "'number: name' in every line, or a table with the heads Idx and Name."
    )
