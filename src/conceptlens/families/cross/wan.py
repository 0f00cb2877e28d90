"""Wan and Wan VACE."""

from __future__ import annotations

from conceptlens.families.cross import register
from conceptlens.families.kinds.cross_attention import CrossLayout


@register
class Wan(CrossLayout):
    name = "Wan"
    classes = ("WanTransformer3DModel",)
    blocks = "blocks"
    multiple = 16


@register
class WanVACE(CrossLayout):
    name = "Wan VACE"
    classes = ("WanVACETransformer3DModel",)
    blocks = "blocks"
    multiple = 16
