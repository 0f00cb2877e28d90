"""PixArt-alpha and PixArt-Sigma."""

from __future__ import annotations

from conceptlens.families.cross import register
from conceptlens.families.kinds.cross_attention import CrossLayout


@register
class PixArt(CrossLayout):
    name = "PixArt"
    classes = ("PixArtTransformer2DModel",)
    multiple = 8
