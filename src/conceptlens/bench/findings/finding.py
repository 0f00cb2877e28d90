"""A finding: a table, the numbers behind it, and its figure, written side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptlens._version import package_version
from conceptlens.bench.figures import new_figure
from conceptlens.bench.tables import Table
from conceptlens.values.errors import ConceptlensError
from conceptlens.values.files import into_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PACKAGES = ("conceptlens", "diffusers", "torch", "transformers")


class FindingError(ConceptlensError, ValueError):
    """A finding cannot be measured with what was given."""


@dataclass(frozen=True)
class Finding:
    """What one measurement gave.

    Attributes:
        name: of the finding and of its files.
        table: short, for people.
        settings: all that the numbers depend on: model, prompts, step, ...
        numbers: behind the table and the figure, as plain values.
        draw: draws into axes, a list of as many as `panels`.
        panels: titles of the figure's parts, side by side.
    """

    name: str
    table: Table
    settings: Mapping[str, Any]
    numbers: Mapping[str, Any]
    draw: Callable[[list[Any]], None]
    panels: tuple[str, ...] = field(default=("",))

    def save(self, folder: Path | str, command: str = "") -> None:
        """Writes `NAME.json` (settings, numbers, versions, command) and `NAME.png`.

        Raises:
            OutputError: when the folder cannot be written.
            FigureError: when matplotlib is not installed.
        """
        content = {"finding": self.name, "settings": self.settings, "numbers": self.numbers, "command": command}
        content["versions"] = {name: package_version(name) for name in PACKAGES}
        figure = new_figure(4.2 * len(self.panels), 3.4)
        axes = [figure.add_subplot(1, len(self.panels), n + 1) for n in range(len(self.panels))]
        self.draw(axes)
        for one, title in zip(axes, self.panels, strict=True):
            one.set_title(title, fontsize=9)
            one.spines[["top", "right"]].set_visible(False)
            one.tick_params(labelsize=8)
        figure.supxlabel(f"{self.settings['model']} · {self.counted()}\n{command}", fontsize=6, color="0.4")
        with into_folder(folder) as stage:
            (stage / f"{self.name}.json").write_text(json.dumps(content, indent=1, default=_plain) + "\n")
            figure.savefig(stage / f"{self.name}.png", dpi=150)

    def counted(self) -> str:
        """How many prompts there were, and pictures where some prompts had several."""
        given = self.settings["prompts"]
        prompts = len(set(given))
        return f"{prompts} prompts" if prompts == len(given) else f"{prompts} prompts, {len(given)} pictures"


def _plain(value: np.ndarray | np.generic | Iterable[Any]) -> list[Any]:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else list(value)


def estimate(values: tuple[float, float, float]) -> str:
    """A figure with its interval, for a table."""
    value, low, high = values
    return "no such pairs" if np.isnan(value) else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def histograms(axes: Axes, groups: Mapping[str, list[float]], label: str) -> None:
    """Overlaid histograms over common bins, as shares of each group."""
    everything = np.concatenate([np.array(values) for values in groups.values() if values] or [np.zeros(1)])
    low, high = float(everything.min()), float(everything.max())
    bins = np.linspace(low, max(high, low + 0.01), 25).tolist()
    for name, values in groups.items():
        if values:
            shares = np.full(len(values), 1 / len(values))
            axes.hist(values, bins, weights=shares, alpha=0.5, label=f"{name} ({len(values)})")
    axes.set_xlabel(label, fontsize=8)
    axes.set_ylabel("share", fontsize=8)
    if any(groups.values()):
        axes.legend(fontsize=7, frameon=False)
