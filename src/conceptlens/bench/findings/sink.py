"""Finding 2-3: most of the text encoder's self-attention goes to a sink, so embeddings keep little of what it knows.

What a prompt's own tokens pay, on average, to begin, prompt, end and padding, layer by layer. CLIP's sink is the begin
token. T5 has none; where the pipeline masks no padding (FLUX.1, Stable Diffusion 3), its tokens attend to that too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.bench.findings.finding import Finding
from conceptlens.bench.findings.reading import SHARES, read_prompt_with
from conceptlens.bench.tables import Table
from conceptlens.values.models import Pipeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def measure(model: str, pipeline: Pipeline, prompts: Sequence[str]) -> Finding:
    """Shares by layer, the mean over prompts of the mean over their tokens."""
    by_encoder: dict[str, list[np.ndarray]] = {}
    for prompt in prompts:
        for reading in read_prompt_with(pipeline, prompt).encoders:
            by_encoder.setdefault(reading.encoder, []).append(reading.shares.numpy())
    means = {encoder: np.stack(shares).mean(0) for encoder, shares in by_encoder.items()}
    body = [
        (encoder, str(layer), *(f"{value:.3f}" for value in row))
        for encoder, mean in means.items()
        for layer, row in [*enumerate(mean), ("mean", mean.mean(0))]
    ]

    def draw(axes: list[Axes]) -> None:
        for one, mean in zip(axes, means.values(), strict=True):
            for number, (name, column) in enumerate(zip(SHARES, mean.T, strict=True)):
                if column.any():
                    one.plot(column, f"C{number}", marker="o", markersize=3, label=name)
            one.set_xticks(range(len(mean)))
            one.set_ylim(0, 1)
            one.set_xlabel("layer", fontsize=8)
            one.set_ylabel("share of attention", fontsize=8)
            one.legend(fontsize=7, frameon=False)

    table = Table("What the prompt's tokens attend to", ("encoder", "layer", *SHARES), tuple(body))
    numbers = {encoder: {"shares": list(SHARES), "by_layer": mean.round(5)} for encoder, mean in means.items()}
    return Finding("sink", table, {"model": model, "prompts": list(prompts)}, numbers, draw, tuple(means))
