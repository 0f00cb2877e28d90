"""Layer-wise relevance propagation to the pixels (Binder et al., arXiv 1604.00825; row "LRP" of arXiv 2502.04320).

The map is signed and has the resolution of the model's input. With the rules "orig" relevance grows at every layer,
which is why these maps are noisy; "ours" conserves it.
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
class LRP(RelevanceMethod):
    """Relevance of each pixel, summed over its colours."""

    name = "lrp"
    summary = "layer-wise relevance propagation to the pixels of a ViT"
    info = MethodInfo(text_conditioned=False, class_conditioned=True, backbone=IMAGENET_VIT.hub_id)

    def _scores(self, pixels: Tensor, names: tuple[str, ...]) -> Float[Tensor, "map rows cols"]:
        trace = record(self._view, pixels, ALL_TAPS)
        walks = [self._walk(trace, target, pixels=True).pixels for target in self._targets(trace.out, names)]
        return torch.cat([of.sum(dim=1) for of in walks if of is not None])
