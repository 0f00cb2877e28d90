"""HunyuanVideo Framepack: the frames before stand in front of the painted ones, a picture before the text."""

from __future__ import annotations

from dataclasses import replace

from conceptlens.families import register
from conceptlens.families.groups import DUAL
from conceptlens.families.kinds.by_pipeline import EnteredAdapter
from conceptlens.families.kinds.layouts import FLUX_SINGLE, AllBlocks, Unpacked


@register
class Framepack(EnteredAdapter):
    name = "HunyuanVideo Framepack"
    classes = ("HunyuanVideoFramepackTransformer3DModel",)
    group = DUAL
    layout = Unpacked(masks=("encoder_attention_mask",), pooled=True, pictures="image_embeds", last=True, frames=1)
    all_blocks = AllBlocks(layout, replace(FLUX_SINGLE, shared="image first"))
