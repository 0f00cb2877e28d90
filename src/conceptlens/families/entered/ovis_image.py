"""Ovis-Image: FLUX.1's blocks."""

from __future__ import annotations

from conceptlens.families import register
from conceptlens.families.groups import DUAL
from conceptlens.families.kinds.by_pipeline import EnteredAdapter
from conceptlens.families.kinds.layouts import FLUX_SINGLE, AllBlocks, Packed


@register
class OvisImage(EnteredAdapter):
    name = "Ovis-Image"
    classes = ("OvisImageTransformer2DModel",)
    group = DUAL
    layout = Packed()
    all_blocks = AllBlocks(layout, FLUX_SINGLE)
