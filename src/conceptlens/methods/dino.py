"""DINO self-attention (Caron et al., arXiv 2104.14294; row "DINO SA" of arXiv 2502.04320, Table 1)."""

from __future__ import annotations

from transformers import ViTModel

from conceptlens.methods import register
from conceptlens.methods._selfattention import SelfAttentionMethod
from conceptlens.methods._vit import Family
from conceptlens.methods.base import MethodInfo


@register
class Dino(SelfAttentionMethod):
    """Class token attention of DINO; one map for all concepts."""

    name = "dino"
    summary = "class token attention of DINO"
    families = (Family("dino", "facebook/dino-vits8", "vit", ViTModel, arguments={"add_pooling_layer": False}),)
    defaults = {"size": 480}
    info = MethodInfo(text_conditioned=False, backbone="facebook/dino-vits8")
