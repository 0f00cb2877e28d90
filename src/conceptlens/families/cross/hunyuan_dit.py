"""HunyuanDiT: the text of a CLIP and of a T5 encoder."""

from __future__ import annotations

from conceptlens.families.cross import register
from conceptlens.families.kinds.cross_attention import CrossLayout


@register
class HunyuanDiT(CrossLayout):
    name = "HunyuanDiT"
    classes = ("HunyuanDiT2DModel",)
    blocks = "blocks"
    multiple = 16
    encoders = ("", "_2")
