"""What the rows of a run say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from conceptlens.bench.faithful.regions import SHARES, area_under
from conceptlens.bench.report import Estimate
from conceptlens.bench.tables import Table

PLACES = ("inside", "elsewhere", "complement")


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Estimate]]:
    """By method: area of the map, share of pictures whose word vanished after each replacement, curves.

    A word has vanished when the judge's chance is below one half. `margin` is how much more often it does inside the
    map than in as many rows elsewhere, `deletion` (lower is better) and `insertion` (higher) the mean chance over the
    area that was replaced, the highest rows of the map first. 95% bootstrap intervals over prompts.
    """
    good = [row for row in rows if "left_out" not in row]
    found = {}
    for name in good[0]["methods"] if good else ():
        of_it = [(row, row["methods"][name]) for row in good]
        columns = {"area": [one["area"] for _, one in of_it]}
        columns |= {place: [float(one[place] < 0.5) for _, one in of_it] for place in PLACES}
        columns["margin"] = [a - b for a, b in zip(columns["inside"], columns["elsewhere"], strict=True)]
        columns["deletion"] = [curve(row["shown"], one["deletion"], row["without"]) for row, one in of_it]
        columns["insertion"] = [curve(row["without"], one["insertion"], row["shown"]) for row, one in of_it]
        found[name] = {column: Estimate.of_mean(values) for column, values in columns.items()}
    return found


def curve(first: float, chances: Sequence[float], last: float) -> float:
    """Mean chance over the area: `first` where nothing is replaced, `last` where everything is."""
    return area_under((0.0, *SHARES, 1.0), (first, *chances, last))


def table(header: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row per method, the bounds last."""
    head = (
        "rows replaced by", "area", "vanished: inside", "as many elsewhere", "all but inside", "inside - elsewhere",
        "deletion", "insertion",
    )  # fmt: skip
    body = tuple((name, *map(str, columns.values())) for name, columns in figures(rows).items())
    settings, bad = header["settings"], sum("left_out" in row for row in rows)
    notes = (
        f"{len(rows) - bad} pictures of {settings['model']}; {bad} more did not show their word, or showed it unasked. "
        f"Judge: {settings['judge']}. Rows are replaced after {settings['first_step']:.0%} of the steps, by those of "
        "the same noise painted without the word. Shares of the pictures, 95% bootstrap intervals over them; deletion "
        "(lower is better) and insertion (higher) are the mean chance of the word over the area.",
        f"`{header['command']}`",
    )
    return Table("Does the word vanish with the rows of its map?", head, body, notes)
