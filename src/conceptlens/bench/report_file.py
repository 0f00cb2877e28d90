"""The text of `report.json`: a finished run, its rows as columns, so that names stand once and not once per image."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]


def to_text(header: Mapping[str, Any], rows: Rows) -> str:
    """JSON with the fields of `header`, the `columns` of rows with results, and the rows of images that `failed`.

    Args:
        header: what is known about the run, including its `recipe` (see `RowFile`), which the rows leave out.
        rows: one per image.
    """
    plain = [{name: value for name, value in row.items() if name != "recipe"} for row in rows]
    good = [row for row in plain if "error" not in row]
    content = {**header, "columns": to_columns(good), "failed": [row for row in plain if "error" in row]}
    return _lines(json.loads(json.dumps(content, default=list))) + "\n"


def from_text(text: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What `to_text` got, failed rows last, numbers to the last bit.

    Raises:
        ValueError, KeyError, TypeError: for any other text.
    """
    header = json.loads(text)
    rows = from_columns(header.pop("columns"))
    return header, [*rows, *header.pop("failed")]


def to_columns(values: Sequence[Any]) -> object:
    """Objects that share their names become one object of columns, at any depth; other values stay a list."""
    names = list(values[0]) if values and isinstance(values[0], Mapping) else []
    if names and all(isinstance(value, Mapping) and set(value) == set(names) for value in values):
        return {name: to_columns([value[name] for value in values]) for name in names}
    return list(values)


def from_columns(columns: Mapping[str, Any] | Iterable[Any]) -> list[Any]:
    """The values again, one per image."""
    if not isinstance(columns, Mapping):
        return list(columns)
    columns_by_name = {name: from_columns(column) for name, column in columns.items()}
    return [dict(zip(columns_by_name, values, strict=True)) for values in zip(*columns_by_name.values(), strict=True)]


def _lines(value: object, depth: int = 1) -> str:
    """JSON with a line per name, so that a change shows in a diff, and a list on one line, so that it stays short."""
    if not isinstance(value, dict) or not value:
        return json.dumps(value, separators=(",", ":"))
    indent = " " * depth
    lines = [f"{indent}{json.dumps(name)}: {_lines(part, depth + 1)}" for name, part in value.items()]
    return "{\n" + ",\n".join(lines) + "\n" + indent[1:] + "}"
