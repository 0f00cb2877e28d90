"""What the rows of a run say together: tables and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conceptlens.bench.figures import new_figure, save_figure
from conceptlens.bench.report import Estimate
from conceptlens.bench.tables import Table

Rows = Sequence[Mapping[str, Any]]
Figures = dict[str, dict[str, Estimate]]
_SEGMENTED = {"miou": "mIoU", "j": "J", "f": "F", "jf": "J&F"}
_TRACKED = {"switches": "identity switches", "idf1": "IDF1", "matched": "frames matched"}
_SWEPT = {"miou": "mIoU", "hits": "matches on the object", "stays": "standing still"}


def figures(rows: Rows) -> dict[str, Figures]:
    """Means over films with 95% bootstrap intervals, by part of the report, by its rows, by figure.

    "methods", "tracks" of all films and "pairs" of those of two things of one noun that meet, "layers" and "noises".
    "gains" are the differences of tracks by match less those by overlap, film by film.
    """
    pairs = [row for row in rows if row["pair"]]
    return {
        "methods": _means([row["methods"] for row in rows]),
        "tracks": _means([row["tracks"] for row in rows]),
        "pairs": _means([row["tracks"] for row in pairs]),
        "gains": {"all films": _gain(rows), "pairs that meet": _gain(pairs)},
        "layers": _means([row["layers"] for row in rows]),
        "noises": _means([row["noises"] for row in rows]),
    }


def _means(each: Sequence[Mapping[str, Mapping[str, float | None]]]) -> Figures:
    return {
        name: {figure: Estimate.of_mean([_number(one[name][figure]) for one in each]) for figure in each[0][name]}
        for name in (each[0] if each else ())
    }


def _gain(rows: Rows) -> dict[str, Estimate]:
    found = {}
    for masks in ("maps", "true masks"):
        for figure in ("switches", "idf1"):
            both = [[row["tracks"][f"{link}, {masks}"][figure] for link in ("match", "overlap")] for row in rows]
            values = [match - overlap for match, overlap in both]
            found[f"{figure}, {masks}"] = Estimate.of_mean(values)
    return found


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def tables(header: Mapping[str, Any], rows: Rows) -> dict[str, Table]:
    """The tables of a run by the names of their files."""
    found, settings = figures(rows), header["settings"]
    pairs = sum(row["pair"] for row in rows)
    notes = (
        f"{len(rows)} films of the test split, {pairs} of them of two things of one noun that meet, read by "
        f"{settings['model']} without a prompt. 95% bootstrap intervals over films.",
        f"`{header['command']}`",
    )
    about = (
        "mIoU of all concepts; J (region) and F (boundary, within 0.8% of the diagonal) of the objects. Means over "
        "frames.",
        "Linked by the model's matches or by overlap alone; a track is at an object from an IoU of 0.5 on. True masks "
        "are those of the nouns, in which things of one noun are one where they touch.",
        "Each layer by itself. Matches on the object: how often a cell of an object leads to a cell of it in the next "
        "latent frame. Standing still: the same of the cell's own place.",
        "Read at each noise level.",
    )
    made = {
        "methods": _table("Where is each concept?", "maps", _SEGMENTED, found["methods"], (about[0], *notes)),
        "tracks": _table("Which is which? All films", "linked by", _TRACKED, found["tracks"], (about[1], *notes)),
        "pairs": _table("Which is which? Pairs that meet", "linked by", _TRACKED, found["pairs"], (about[1], *notes)),
    }
    if found["layers"]:
        made["layers"] = _table("Layers", "layer", _SWEPT, found["layers"], (about[2], *notes))
    if found["noises"]:
        made["noises"] = _table("Noise", "noise", _SWEPT, found["noises"], (about[3], *notes))
    return made


def _table(title: str, first: str, heads: Mapping[str, str], found: Figures, notes: tuple[str, ...]) -> Table:
    body = tuple((name, *(str(columns[figure]) for figure in heads)) for name, columns in found.items())
    return Table(title, (first, *heads.values()), body, notes)


def page(header: Mapping[str, Any], rows: Rows, out: Path) -> str:
    """The report as Markdown, with the figure and the pictures of tracks that lie in `out`."""
    made = tables(header, rows)
    parts = ["# Films", *(table.markdown() for table in made.values())]
    for which, gained in figures(rows)["gains"].items():
        told = (f"{name} {one.value:+.3f} [{one.low:+.3f}, {one.high:+.3f}]" for name, one in gained.items())
        parts.append(f"By matches less by overlap, film by film, {which}: {', '.join(told)}.")
    pictures = [out / "films.png", *sorted(out.glob("tracks-*.png"))]
    parts += [f"![{path.stem}]({path.name})" for path in pictures if path.exists()]
    return "\n\n".join(parts) + "\n"


def save(header: Mapping[str, Any], rows: Rows, out: Path) -> None:
    """Writes the tables (`methods.md`, `.tex`, `.csv`, ...), the figure (`films.png`) and all as `films.md`."""
    for name, table in tables(header, rows).items():
        table.save(out, name)
    draw(rows, out / "films.png", command=header["command"])
    (out / "films.md").write_text(page(header, rows, out), encoding="utf-8")


def draw(rows: Rows, path: Path, *, command: str = "") -> None:
    """Curves over layers and over noise levels, with their intervals.

    Raises:
        FigureError: when matplotlib is not installed.
    """
    found = figures(rows)
    parts = [name for name in ("layers", "noises") if found[name]]
    if not parts:
        return
    figure = new_figure(4.6 * len(parts), 3.4)
    for place, name in enumerate(parts, 1):
        axes = figure.add_subplot(1, len(parts), place)
        for column, label in _SWEPT.items():
            curve = [columns[column] for columns in found[name].values()]
            line = axes.plot(list(found[name]), [one.value for one in curve], marker="o", label=label)[0]
            low, high = [one.low for one in curve], [one.high for one in curve]
            axes.fill_between(list(found[name]), low, high, alpha=0.2, color=line.get_color())
        axes.set_ylim(0, 1)
        axes.set_xlabel({"layers": "layer", "noises": "noise level"}[name])
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(fontsize=8, frameon=False)
    figure.supxlabel(f"{len(rows)} films\n{command}", fontsize=6, color="0.4")
    save_figure(figure, path)
