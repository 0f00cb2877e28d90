"""What a concept's map shares with those of the others, taken off it."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from conceptlens.ops.grids import TINY


def subtract_common(scores: Float[Tensor, "batch concept image"]) -> Float[Tensor, "batch concept image"]:
    """max(0, M - s B), B the mean map of the other concepts and s = <M, B> / <B, B>; a single concept stays."""
    count = scores.shape[1]
    if count < 2:
        return scores
    others = (scores.sum(dim=1, keepdim=True) - scores) / (count - 1)
    scale = (scores * others).sum(dim=2, keepdim=True) / (others * others).sum(dim=2, keepdim=True).clamp_min(TINY)
    return (scores - scale * others).clamp_min(0)
