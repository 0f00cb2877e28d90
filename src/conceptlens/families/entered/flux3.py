"""FLUX.3: single-stream blocks throughout, whose text has an argument of its own."""

from __future__ import annotations

from conceptlens.families import register
from conceptlens.families.groups import SINGLE
from conceptlens.families.kinds.by_pipeline import EnteredAdapter
from conceptlens.families.kinds.layouts import Blocks, Packed
from conceptlens.families.kinds.reentry import EXPERIMENTAL


@register
class Flux3(EnteredAdapter):
    name = "FLUX.3"
    classes = ("Flux3Transformer2DModel",)
    group = SINGLE
    caveat = EXPERIMENTAL
    layout = Packed(Blocks("single_transformer_blocks", text_out=None))
