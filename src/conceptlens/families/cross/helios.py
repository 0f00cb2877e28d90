"""Helios."""

from __future__ import annotations

from conceptlens.families.cross import register
from conceptlens.families.kinds.cross_attention import CrossLayout


@register
class Helios(CrossLayout):
    name = "Helios"
    classes = ("HeliosTransformer3DModel",)
    blocks = "blocks"
    multiple = 16
