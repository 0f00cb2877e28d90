"""How sure a map is: the chance that the runner-up at a place is the one that should have won."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

FLOOR = 0.15
"""Spread that every score has, as a share of the range of all scores: what noise draws do not tell."""

Scores = Float[Tensor, "concept height width"]


def doubt(scores: Scores, spread: Scores | None = None) -> Float[Tensor, "height width"]:
    """The chance, 0..0.5, that the second-best concept scores above the best, if scores were normal and independent.

    Args:
        scores: of at least two concepts; of any unit.
        spread: their standard deviations over noise draws, in the same unit; zero when None.

    Returns:
        Zeros for a single concept, which has no rival.
    """
    if len(scores) < 2:
        return torch.zeros_like(scores[0])
    scores = scores.double()  # where a rival is hopeless, its chance is too small for float32, and all such are equal
    best, who = scores.topk(2, dim=0)
    floor = (FLOOR * (scores.max() - scores.min())).clamp_min(1e-30)
    variance = floor.expand_as(best[0]) ** 2
    if spread is not None:
        variance = variance + (spread.gather(0, who) ** 2).sum(dim=0)
    return torch.special.ndtr((best[1] - best[0]) / variance.sqrt()).float()
