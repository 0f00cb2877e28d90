"""Partial LRP (Voita et al., arXiv 1905.09418; row "Partial-LRP" of arXiv 2502.04320, Table 1).

m[n] = mean over heads of (R[h, 0, n])+, the relevance of the last block's attention matrix.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from conceptlens.methods import register
from conceptlens.methods._relevance import ALL_TAPS, RelevanceMethod
from conceptlens.methods._vit import IMAGENET_VIT
from conceptlens.methods._vit_view import record
from conceptlens.methods.base import MethodInfo


@register
class PartialLRP(RelevanceMethod):
    """Relevance of the class token's attention in the last block."""

    name = "partial-lrp"
    summary = "relevance of a ViT's class token attention in the last block"
    info = MethodInfo(text_conditioned=False, class_conditioned=True, backbone=IMAGENET_VIT.hub_id)

    def _scores(self, pixels: Tensor, names: tuple[str, ...]) -> Float[Tensor, "map rows cols"]:
        last = len(self._view.blocks) - 1
        trace = record(self._view, pixels, ALL_TAPS, first=last)
        walks = [self._walk(trace, t, last=last).attention[last] for t in self._targets(trace.out, names)]
        rows = torch.stack([of[0].clamp(min=0).mean(dim=0)[0, 1:] for of in walks])
        return rows.unflatten(-1, self._view.grid)
