"""Weights without labels: what agrees with the whole counts more.

A head, a layer or a step whose map points elsewhere than the map of all of them together is taken for noise.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from conceptlens.ops.grids import TINY

HEAD_POWER, LAYER_POWER = 2, 4
"""How steeply weights fall with agreement."""


def agreement(parts: Float[Tensor, "batch part concept image"], power: int) -> Float[Tensor, "batch part"]:
    """How much each part agrees with the sum of all: max(0, cosine) ** power, divided by its sum over the parts.

    What all concepts share at a patch decides nothing between them and is left out; of a single concept, its mean is.
    """
    axis = 2 if parts.shape[2] > 1 else 3
    centred = parts - parts.mean(dim=axis, keepdim=True)
    cosine = torch.cosine_similarity(centred.flatten(2), centred.sum(dim=1, keepdim=True).flatten(2), dim=2)
    weights = cosine.clamp_min(0) ** power + TINY
    return weights / weights.sum(dim=1, keepdim=True)


def weigh_heads(
    concepts: Float[Tensor, "batch concept dim"], image: Float[Tensor, "batch image dim"], heads: int
) -> Float[Tensor, "batch 1 concept image"]:
    """Dot products of vectors, each head's part of them weighted by `agreement`; equal weights give the plain product.

    Args:
        concepts: vectors with all heads concatenated.
        image: likewise.
        heads: how many there are.
    """
    precise = torch.promote_types(concepts.dtype, torch.float32)
    left, right = (side.to(precise).unflatten(-1, (heads, -1)).transpose(1, 2) for side in (concepts, image))
    parts = left @ right.transpose(-1, -2)
    weights = heads * agreement(parts, HEAD_POWER)
    return torch.einsum("bh,bhcn->bcn", weights, parts)[:, None]


def weighted_mean(
    parts: Float[Tensor, "part batch concept image"],
) -> Float[Tensor, "batch concept image"]:
    """The mean of layers and steps, weighted by `agreement`."""
    weights = agreement(parts.transpose(0, 1), LAYER_POWER)
    return torch.einsum("bp,pbcn->bcn", weights, parts)
