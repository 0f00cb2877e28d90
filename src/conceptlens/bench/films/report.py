"""What the rows of a run say together: tables and a figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from conceptlens.bench.figures import new_figure, save_figure
from conceptlens.bench.report import Estimate
from conceptlens.bench.tables import Table

Rows = Sequence[Mapping[str, Any]]
Figures = dict[str, dict[str, Estimate]]
_SEGMENTED = {"miou": "mIoU", "j": "J", "f": "F", "jf": "J&F"}
_TRACKED = {"switches": "identity switches", "idf1": "IDF1", "matched": "frames matched"}
_MOVED = {"everywhere": "over all pixels", "among objects": "among objects"}
_BEHAVIOURS: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    "stands, meets none": lambda thing: not thing["speed"] and not thing["meets"],
    "moves up to 3 pixels a frame": lambda thing: 0 < thing["speed"] <= 3,
    "moves faster": lambda thing: thing["speed"] > 3,
    "meets another": lambda thing: thing["meets"],
    "partly out of the frame": lambda thing: thing["leaves"],
}
_SWEPT = {"miou": "mIoU", "hits": "matches on the object", "stays": "standing still"}

_SEGMENTS = "mIoU of all concepts; J (region) and F (boundary, within 0.8% of the diagonal) of the objects."
_LINKS = (
    "Linked by the model's matches or by overlap alone; a track is at an object from an IoU of 0.5 on. True masks are "
    "those of the nouns, in which things of one noun are one where they touch."
)
_TABLES = {
    "methods": ("Where is each concept?", "maps", _SEGMENTED, f"{_SEGMENTS} Means over frames."),
    "margins": ("Output space, less", "maps", _SEGMENTED, f"{_SEGMENTS} Differences film by film."),
    "objects": (
        "Which objects are lost?",
        "object (how many)",
        {"j": "J"},
        "Output space with softmax; objects of a noun that is drawn once. Intervals over objects.",
    ),
    "motions": (
        "Words of motion",
        "word (films)",
        _MOVED,
        "ROC-AUC of a word's raw scores for the objects that move so, in films where others do not; 0.5 is chance.",
    ),
    "tracks": ("Which is which? All films", "linked by", _TRACKED, _LINKS),
    "pairs": ("Which is which? Pairs that meet", "linked by", _TRACKED, _LINKS),
    "layers": (
        "Layers",
        "layer",
        _SWEPT,
        "Each layer by itself. Matches on the object: how often a cell of an object leads to a cell of it in the next "
        "latent frame. Standing still: the same of the cell's own place.",
    ),
    "noises": ("Noise", "noise", _SWEPT, "Read at each noise level."),
}


def figures(rows: Rows) -> dict[str, Figures]:
    """Means over films with 95% bootstrap intervals, by part of the report, by its rows, by figure.

    "methods", "tracks" of all films and "pairs" of those of two things of one noun that meet, "layers" and "noises".
    "margins" are those of the output space over the other methods, film by film, "gains" the differences of tracks by
    match less those by overlap. "objects" are by how they behave, "motions" by the word that says how they move.
    """
    pairs = [row for row in rows if row["pair"]]
    return {
        "methods": _means([row["methods"] for row in rows]),
        "margins": _margins(rows),
        "objects": _behaviours(rows),
        "motions": _motions(rows),
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


def _margins(rows: Rows) -> Figures:
    others = [name for name in rows[0]["methods"] if name != "output"] if rows else []
    return {
        other: {
            figure: Estimate.of_mean([row["methods"]["output"][figure] - row["methods"][other][figure] for row in rows])
            for figure in _SEGMENTED
        }
        for other in others
    }


def _behaviours(rows: Rows) -> Figures:
    things = [thing for row in rows for thing in row["objects"]]
    found = {name: [thing["j"] for thing in things if behaves(thing)] for name, behaves in _BEHAVIOURS.items()}
    return {f"{name} ({len(ious)})": {"j": Estimate.of_mean(ious)} for name, ious in found.items() if ious}


def _motions(rows: Rows) -> Figures:
    words = sorted({word for row in rows for word in row["motions"]})
    found = {word: [row["motions"][word] for row in rows if word in row["motions"]] for word in words}
    return {
        f"{word} ({len(scores)})": {figure: Estimate.of_mean([one[figure] for one in scores]) for figure in _MOVED}
        for word, scores in found.items()
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
    linking = settings["match_layers"] or settings["recipe"]["layers"]
    by = f" Matches of layers {', '.join(map(str, linking))}." if linking else ""
    notes = (
        f"{len(rows)} films of the test split, {pairs} of them of two things of one noun that meet, read by "
        f"{settings['model']} without a prompt. 95% bootstrap intervals over films.",
        f"`{header['command']}`",
    )
    made = {}
    for name, (title, first, heads, about) in _TABLES.items():
        if found[name]:
            body = tuple((row, *(str(columns[head]) for head in heads)) for row, columns in found[name].items())
            about += by if about is _LINKS else ""
            made[name] = Table(title, (first, *heads.values()), body, (about, *notes))
    return made


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
