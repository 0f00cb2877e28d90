"""Findings 2-1 and 2-2: which words belong together is in the encoder's self-attention, not in its embeddings.

For each text encoder of a pipeline by itself, over pairs of words: the cosine similarity of embeddings (2-1), and what
the noun pays to the other word among the prompt's own words (2-2; T at power 1, T-SAM's target). The area under the
ROC curve is the chance that a bound pair is above another: 0.5 tells nothing, 1 tells all. It is the gate before
guiding a model by an encoder's self-attention. A modifier stands right before its noun in most prompts, so pairs
that are side by side without being bound are a control, and for T5 what its relative position bias alone would tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from conceptlens.bench.findings.finding import Finding, FindingError, estimate, histograms
from conceptlens.bench.findings.pairs import KINDS, Values, auc, word_attention, word_cosines, word_pairs
from conceptlens.bench.findings.reading import EncoderReading, read_prompt_with
from conceptlens.bench.tables import Table
from conceptlens.values.models import Pipeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def embeddings(model: str, pipeline: Pipeline, prompts: Sequence[str]) -> Finding:
    """Finding 2-1: similarity of embeddings, bound against unbound."""
    by_encoder: dict[str, Values] = {}
    for reading in _readings(pipeline, prompts):
        places = [reading.places(places) for _, places in reading.text.words]
        cosines = word_cosines(reading.embeddings, places)
        by_encoder.setdefault(reading.encoder, []).append(_values(cosines, reading, causal=False))
    return _finding("embeddings", "similarity of embeddings", model, prompts, by_encoder)


def attention(model: str, pipeline: Pipeline, prompts: Sequence[str]) -> Finding:
    """Finding 2-2: text self-attention, bound against unbound; mean over heads and layers."""
    by_encoder: dict[str, Values] = {}
    for reading in _readings(pipeline, prompts):
        views = {"": reading.text.attention[0].mean(0)}
        if not reading.causal:
            views[" both ways"] = (views[""] + views[""].T) / 2
        if reading.position_attention is not None:
            views[" position"] = reading.position_attention
        for view, matrix in views.items():
            values = _values(word_attention(reading, matrix), reading, causal=reading.causal)
            by_encoder.setdefault(reading.encoder + view, []).append(values)
    return _finding("attention", "self-attention", model, prompts, by_encoder)


def _readings(pipeline: Pipeline, prompts: Sequence[str]) -> list[EncoderReading]:
    return [encoder for prompt in prompts for encoder in read_prompt_with(pipeline, prompt).encoders]


def _values(matrix: Tensor, reading: EncoderReading, *, causal: bool) -> Mapping[str, list[float]]:
    pairs = word_pairs(reading.text, causal=causal)
    if not pairs["bound"]:
        raise FindingError(
            f"the prompt {reading.text.prompt!r} has no word that belongs to a noun. "
            'Give prompts such as "a red house and a blue boat".'
        )
    return {kind: [float(matrix[row, col]) for row, col in pairs[kind]] for kind in KINDS}


def _finding(name: str, what: str, model: str, prompts: Sequence[str], by_encoder: Mapping[str, Values]) -> Finding:
    body, numbers = [], {}
    for encoder, values in by_encoder.items():
        numbers[encoder] = {}
        for kind in KINDS:
            pooled = [v for one in values for v in one[kind]]
            if pooled:
                area = None if kind == "bound" else auc(values, "bound", kind)
                mean = float(np.mean(pooled))
                body.append((encoder, kind, str(len(pooled)), f"{mean:.3f}", estimate(area) if area else ""))
                numbers[encoder][kind] = {"mean": mean, "bound_against_it_auc": area, "values": np.round(pooled, 5)}
    head = ("encoder", "pairs", "count", "mean", "AUC, bound above")

    def draw(axes: list[Axes]) -> None:
        for one, kinds in zip(axes, numbers.values(), strict=True):
            histograms(one, {kind: list(kinds[kind]["values"]) for kind in KINDS[:3] if kind in kinds}, what)

    settings = {"model": model, "prompts": list(prompts)}
    table = Table(f"{what.capitalize()} of pairs of words", head, tuple(body))
    return Finding(name, table, settings, numbers, draw, tuple(map(_title, numbers, numbers.values())))


def _title(encoder: str, numbers: Mapping[str, Any]) -> str:
    """Of an encoder's histogram. Prompts of one coloured object each have no unbound pairs."""
    against = numbers.get("unbound")
    return encoder if against is None else f"{encoder}: AUC {against['bound_against_it_auc'][0]:.2f}"
