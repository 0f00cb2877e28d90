"""Raw attention of a vision transformer (arXiv 2502.04320, Table 1, row "ViT Attention").

m[n] = mean over heads of A[h, 0, n] in the last block.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from conceptlens.methods import register
from conceptlens.methods._selfattention import first_row
from conceptlens.methods._vit import IMAGENET_VIT, ViTMethod
from conceptlens.methods._vit_view import record
from conceptlens.methods.base import MethodInfo


@register
class ViTAttention(ViTMethod):
    """Where the class token of the last block looks; one map for all concepts."""

    name = "vit-attention"
    summary = "raw attention of a ViT's class token in the last block"
    info = MethodInfo(text_conditioned=False, backbone=IMAGENET_VIT.hub_id)

    def _scores(self, pixels: Tensor, names: tuple[str, ...]) -> Float[Tensor, "1 rows cols"]:
        last = len(self._view.blocks) - 1
        block = record(self._view, pixels, {"q", "k"}, first=last).blocks[last]
        row = first_row(block["q"], block["k"], self._view.blocks[last].heads).mean(dim=0)
        return row[1:].reshape(1, *self._view.grid)
