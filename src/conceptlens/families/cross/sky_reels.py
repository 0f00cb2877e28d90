"""SkyReels-V2: Wan's blocks."""

from __future__ import annotations

from conceptlens.families.cross import register
from conceptlens.families.kinds.cross_attention import CrossLayout


@register
class SkyReelsV2(CrossLayout):
    name = "SkyReels-V2"
    classes = ("SkyReelsV2Transformer3DModel",)
    blocks = "blocks"
    multiple = 16
