"""Attention rollout (Abnar and Zuidema, arXiv 2005.00928; row "Rollout" of arXiv 2502.04320, Table 1).

A'_l = rows of (mean_h A_l + I) divided by their sums; R = A'_{L-1} ... A'_s; the map is the class token's row of R.
Block 0 is left out (s = 1), as in the published evaluations.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from conceptlens.methods import register
from conceptlens.methods._vit import IMAGENET_VIT, ViTMethod
from conceptlens.methods._vit_view import attention, record
from conceptlens.methods.base import MethodInfo


def roll_out(attentions: list[Float[Tensor, "token token"]]) -> Float[Tensor, "token token"]:
    """The product of the attention matrices, first block rightmost, each averaged with the skip connection."""
    joint = torch.eye(attentions[0].shape[0]).to(attentions[0])
    for a in attentions:
        step = a + torch.eye(len(a)).to(a)
        joint = step / step.sum(dim=-1, keepdim=True) @ joint
    return joint


@register
class Rollout(ViTMethod):
    """Attention followed through all blocks; one map for all concepts."""

    name = "rollout"
    summary = "attention of a ViT followed through its blocks"
    info = MethodInfo(text_conditioned=False, backbone=IMAGENET_VIT.hub_id)
    defaults = {"start_layer": 1}

    def _scores(self, pixels: Tensor, names: tuple[str, ...]) -> Float[Tensor, "1 rows cols"]:
        trace = record(self._view, pixels, {"q", "k"}, first=self._options["start_layer"])
        means = [attention(self._view, trace, number)[0].mean(dim=0) for number in sorted(trace.blocks)]
        return roll_out(means)[0, 1:].reshape(1, *self._view.grid)
