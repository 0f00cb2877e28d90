"""Lumina-Image 2: single-stream blocks, the text first."""

from __future__ import annotations

from conceptlens.families import register
from conceptlens.families.groups import SINGLE
from conceptlens.families.kinds.by_pipeline import EnteredAdapter
from conceptlens.families.kinds.layouts import Blocks, Unpacked
from conceptlens.families.kinds.reentry import EXPERIMENTAL


@register
class Lumina2(EnteredAdapter):
    name = "Lumina-Image 2"
    classes = ("Lumina2Transformer2DModel",)
    group = SINGLE
    caveat = EXPERIMENTAL
    layout = Unpacked(Blocks("layers", joint="text first", text_out=None), masks=("encoder_attention_mask",))
