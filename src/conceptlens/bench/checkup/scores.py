"""How well maps say where each noun of a collage is: intersection over union of what each word wins.

The nouns of a collage compete at every patch with the one that is nowhere in it; where part of a picture is no noun's,
the model's background words join, and what they win is background. Beside each noun stands how it would have scored in
the place of another: maps that tell things from grounds, but not one thing from another, score as well there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer
from torch import Tensor

from conceptlens.bench.checkup.extents import BACKGROUND

Spans = Mapping[str, Sequence[int]]
"""Sets of layers by name."""


def score_spans(
    maps: Float[Tensor, "layer concept rows cols"], truth: Integer[np.ndarray, "rows cols"], nouns: int, spans: Spans
) -> dict[str, dict[str, Any]]:
    """By set of layers `iou` and `swapped` of each noun, and the IoU of the `background`; None where there is none.

    Args:
        maps: of each layer alone: of the nouns of a collage, then of the absent one, then of background words.
        truth: from `extents.truth_of`.
        nouns: how many are in the collage.
        spans: sets of layers.
    """
    valid = (truth >= 0) | (truth == BACKGROUND)
    labels = np.where(truth == BACKGROUND, nouns + 1, truth)[valid]
    return {name: _scored(_winners(maps, layers, nouns)[valid], labels, nouns) for name, layers in spans.items()}


def _winners(maps: Tensor, layers: Sequence[int], nouns: int) -> Integer[np.ndarray, "rows cols"]:
    """The place of the winner: of a noun, `nouns` for the absent one, one more for any word of the background."""
    return maps[list(layers)].mean(dim=0).argmax(dim=0).clamp(max=nouns + 1).numpy()


def _scored(won: np.ndarray, labels: np.ndarray, nouns: int) -> dict[str, Any]:
    kinds = nouns + 2
    counts = np.bincount(labels * kinds + won, minlength=kinds * kinds).reshape(kinds, kinds)
    there, gained = counts.sum(axis=1), counts.sum(axis=0)

    def iou(place: int, word: int) -> float | None:
        """Of what a word won with what is in a place; None for a place without a patch."""
        both = counts[place, word]
        return round(float(both / (there[place] + gained[word] - both)), 4) if there[place] else None

    return {
        "iou": [iou(place, place) for place in range(nouns)],
        "swapped": [iou(place, (place + 1) % nouns) for place in range(nouns)],
        "background": iou(nouns + 1, nouns + 1),
    }


def image_score(scored: Mapping[str, Any], kind: str = "iou") -> float:
    """The mean IoU of one collage, its background included; NaN where no noun shows."""
    nouns = [value for value in scored[kind] if value is not None]
    both = [*nouns, *([scored["background"]] if scored["background"] is not None else [])]
    return float(np.mean(both)) if nouns else float("nan")
