"""GradCAM on attention (Selvaraju et al., arXiv 1610.02391, as adapted to ViTs; row "GradCAM" of arXiv 2502.04320).

In the last block, with A_h the class token's attention to the patches and G_h its gradient: w_h = mean of G_h over the
patches; m = (mean_h w_h A_h)+, stretched to 0..1 as part of the method (zeros where it is constant).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from conceptlens.methods import register
from conceptlens.methods._vit import IMAGENET_VIT, ViTMethod
from conceptlens.methods._vit_view import attention, attention_gradients, record
from conceptlens.methods.base import MethodInfo
from conceptlens.ops.grids import unit_range


def weigh_heads(a: Float[Tensor, "head patch"], gradient: Float[Tensor, "head patch"]) -> Float[Tensor, " patch"]:
    """Attention of the heads by their mean gradient, the positive part, stretched to 0..1."""
    return unit_range((gradient.mean(dim=-1, keepdim=True) * a).mean(dim=0).clamp(min=0))


@register
class GradCAM(ViTMethod):
    """Class token attention of the last block, its heads weighed by their gradients."""

    name = "gradcam"
    summary = "a ViT's last attention, heads weighed by gradients"
    info = MethodInfo(text_conditioned=False, class_conditioned=True, needs_grad=True, backbone=IMAGENET_VIT.hub_id)
    defaults = {"templates": "single"}
    choices = {"templates": ("single", "ensemble")}

    def _scores(self, pixels: Tensor, names: tuple[str, ...]) -> Float[Tensor, "map rows cols"]:
        last = len(self._view.blocks) - 1
        trace = record(self._view, pixels, {"q", "k", "v", "context"}, first=last, grad=True)
        a, rows = attention(self._view, trace, last)[0, :, 0, 1:], []
        for target in self._targets(trace.out, names):
            with torch.enable_grad():
                score = self._score(trace.out, target)
            gradient = attention_gradients(self._view, trace, score)[last][0, :, 0, 1:]
            rows.append(weigh_heads(a, gradient))
        return torch.stack(rows).unflatten(-1, self._view.grid)
