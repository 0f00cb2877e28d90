"""EasyAnimate: dual-stream blocks throughout."""

from __future__ import annotations

from conceptlens.families import register
from conceptlens.families.groups import DUAL
from conceptlens.families.kinds.by_pipeline import EnteredAdapter
from conceptlens.families.kinds.layouts import Blocks, Unpacked


@register
class EasyAnimate(EnteredAdapter):
    name = "EasyAnimate"
    classes = ("EasyAnimateTransformer3DModel",)
    group = DUAL
    guided_batch = ("negative", "prompt")
    layout = Unpacked(Blocks(attention="attn1"), frames=1)
