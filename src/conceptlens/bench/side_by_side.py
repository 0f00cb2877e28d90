"""One picture, all methods: the figure beside a table of figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from conceptlens.bench.datasets.base import Sample
from conceptlens.bench.figures import new_figure, save_figure
from conceptlens.bench.scorer import Scorer
from conceptlens.ops.grids import resize, unit_range

COLUMNS = 7


def draw_methods(scorers: Mapping[str, Scorer], id_: str, path: Path, *, command: str = "") -> None:
    """Writes the maps of one image's target, one panel per method, beside the picture and its true mask.

    Each map is stretched to its own range, since the units of methods differ.

    Raises:
        FigureError: when matplotlib is not installed.
    """
    sample = next(iter(scorers.values())).data.sample(id_)
    panels = {name: _target_map(scorer, sample) for name, scorer in scorers.items()}
    rows = -(-(len(panels) + 2) // COLUMNS)
    figure = new_figure(1.5 * COLUMNS, 1.75 * rows + 0.2)
    axes = list(figure.subplots(rows, COLUMNS, squeeze=False).flatten())
    for place in axes:
        place.set_axis_off()
    axes[0].imshow(sample.image)
    axes[0].set_title("picture", fontsize=8)
    axes[1].imshow(sample.labels == 1, cmap="gray")
    axes[1].set_title("true mask", fontsize=8)
    for place, (name, values) in zip(axes[2:], panels.items(), strict=False):
        place.imshow(values, cmap="inferno", vmin=0, vmax=1)
        place.set_title(name, fontsize=7)
    figure.supxlabel(f"scene {id_} · each map stretched to its own range\n{command}", fontsize=6, color="0.4")
    save_figure(figure, path)


def _target_map(scorer: Scorer, sample: Sample) -> np.ndarray:
    concepts = scorer.concepts(sample)
    maps = scorer.explain(sample, concepts)
    target = [concept.number for concept in concepts].index(sample.present[0])
    height, width = sample.labels.shape
    return resize(unit_range(maps.scores[target].float())[None], height, width, "bilinear")[0].numpy()
