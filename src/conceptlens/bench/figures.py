"""Figures of ablations and sweeps from their reports, as PNG or SVG by the file's ending."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conceptlens.bench.report import Estimate, Report
from conceptlens.bench.tables import HEADINGS
from conceptlens.values.errors import ConceptlensError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = ("miou", "accuracy", "ap")


class FigureError(ConceptlensError, RuntimeError):
    """A figure cannot be drawn."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, without any window system.

    Raises:
        FigureError: when matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FigureError("figures need matplotlib: pip install 'conceptlens[bench]'.") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as the file's ending says."""
    aside = path.with_name(f".{path.name}")
    figure.savefig(aside, dpi=150, format=path.suffix[1:])
    aside.replace(path)


def draw(reports: Mapping[str, Report], axis: str, paths: Sequence[Path], *, command: str = "") -> None:
    """Bars for the rows of a table, curves with their interval for a sweep (Figure 7 of the paper).

    Raises:
        FigureError: when matplotlib is not installed.
    """
    figure = new_figure(7.2, 3.6)
    axes = figure.add_subplot()
    names = list(reports)
    bars = axis in ("space", "attention", "refine")
    for number, metric in enumerate(SHOWN):
        estimates = [r.metrics[metric] for r in reports.values() if metric in r.metrics]
        if not estimates:
            continue
        places = [i + (number - 1) * 0.27 for i in range(len(names))] if bars else list(range(len(names)))
        values = [e.value for e in estimates]
        if bars:
            axes.bar(places, values, 0.25, yerr=_errors(estimates), capsize=2, label=HEADINGS[metric])
        else:
            line = axes.plot(places, values, marker="o", label=HEADINGS[metric])[0]
            axes.fill_between(
                places, [e.low for e in estimates], [e.high for e in estimates], alpha=0.2, color=line.get_color()
            )
    axes.set_xticks(range(len(names)), names, rotation=20 if bars else 45, ha="right", fontsize=8)
    axes.set_ylim(0, 1)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, ncols=3, frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.12))
    one = next(iter(reports.values()))
    settings = one.settings
    caption = f"{settings['dataset']} · {settings['model']} · protocol {one.protocol['name']} · {len(one.good)} images"
    figure.supxlabel(f"{caption}\n{command}", fontsize=6, color="0.4")
    for path in paths:
        save_figure(figure, path)


def _errors(estimates: Sequence[Estimate]) -> list[list[float]]:
    return [[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]]
