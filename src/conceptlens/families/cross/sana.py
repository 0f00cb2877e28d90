"""Sana and Sana-Video."""

from __future__ import annotations

from conceptlens.families.cross import register
from conceptlens.families.kinds.cross_attention import CrossLayout


@register
class Sana(CrossLayout):
    name = "Sana"
    classes = ("SanaTransformer2DModel",)
    multiple = 32


@register
class SanaVideo(CrossLayout):
    name = "Sana-Video"
    classes = ("SanaVideoTransformer3DModel",)
    multiple = 32
