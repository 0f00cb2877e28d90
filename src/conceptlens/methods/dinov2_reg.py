"""DINOv2 with registers (Darcet et al., arXiv 2309.16588; row "DINOv2 Reg SA" of arXiv 2502.04320, Table 1).

The token order is class token, registers, patches.
"""

from __future__ import annotations

from transformers import Dinov2WithRegistersModel

from conceptlens.methods import register
from conceptlens.methods._selfattention import SelfAttentionMethod
from conceptlens.methods._vit import Family
from conceptlens.methods.base import MethodInfo

_HUB_ID = "facebook/dinov2-with-registers-small"


@register
class Dinov2Registers(SelfAttentionMethod):
    """Class token attention of DINOv2 with registers; one map for all concepts."""

    name = "dinov2-reg"
    summary = "class token attention of DINOv2 with registers"
    families = (Family("dinov2-reg", _HUB_ID, "dinov2_with_registers", Dinov2WithRegistersModel),)
    defaults = {"size": 518}
    info = MethodInfo(text_conditioned=False, backbone=_HUB_ID)
