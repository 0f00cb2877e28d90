"""Latte."""

from __future__ import annotations

from conceptlens.families.cross import register
from conceptlens.families.kinds.cross_attention import CrossLayout


@register
class Latte(CrossLayout):
    name = "Latte"
    classes = ("LatteTransformer3DModel",)
    multiple = 8
