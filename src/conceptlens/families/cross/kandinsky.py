"""Kandinsky 5 and 6."""

from __future__ import annotations

from conceptlens.families.cross import register
from conceptlens.families.kinds.cross_attention import CrossLayout


@register
class Kandinsky5(CrossLayout):
    name = "Kandinsky 5"
    classes = ("Kandinsky5Transformer3DModel",)
    blocks = "visual_transformer_blocks"
    attention = "cross_attention"
    multiple = 16
    axes = "batch frame row col channel"


@register
class Kandinsky6(CrossLayout):
    name = "Kandinsky 6"
    classes = ("Kandinsky6Transformer3DModel",)
    blocks = "visual_transformer_blocks"
    attention = "video_dec_block.cross_attention"
    multiple = 16
    axes = "batch frame row col channel"
