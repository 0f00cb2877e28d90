"""Motif-Video: HunyuanVideo's blocks; a first picture stands before the text."""

from __future__ import annotations

from dataclasses import replace

from conceptlens.families import register
from conceptlens.families.groups import DUAL
from conceptlens.families.kinds.by_pipeline import EnteredAdapter
from conceptlens.families.kinds.layouts import FLUX_SINGLE, AllBlocks, Unpacked


@register
class MotifVideo(EnteredAdapter):
    name = "Motif-Video"
    classes = ("MotifVideoTransformer3DModel",)
    group = DUAL
    layout = Unpacked(masks=("encoder_attention_mask",), pictures="image_embeds", frames=1)
    all_blocks = AllBlocks(layout, replace(FLUX_SINGLE, shared="image first"))
