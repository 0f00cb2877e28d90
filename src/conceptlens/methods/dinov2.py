"""DINOv2 self-attention (Oquab et al., arXiv 2304.07193; row "DINOv2 SA" of arXiv 2502.04320, Table 1).

The paper does not tell the size of its model; the small one is the counterpart of its DINO.
"""

from __future__ import annotations

from transformers import Dinov2Model

from conceptlens.methods import register
from conceptlens.methods._selfattention import SelfAttentionMethod
from conceptlens.methods._vit import Family
from conceptlens.methods.base import MethodInfo


@register
class Dinov2(SelfAttentionMethod):
    """Class token attention of DINOv2; one map for all concepts."""

    name = "dinov2"
    summary = "class token attention of DINOv2"
    families = (Family("dinov2", "facebook/dinov2-small", "dinov2", Dinov2Model),)
    defaults = {"size": 518}
    info = MethodInfo(text_conditioned=False, backbone="facebook/dinov2-small")
