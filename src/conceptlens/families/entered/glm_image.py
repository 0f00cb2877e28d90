"""GLM-Image: text and image share the attention's weights, text first."""

from __future__ import annotations

from conceptlens.families import register
from conceptlens.families.groups import SHARED
from conceptlens.families.kinds.by_pipeline import EnteredAdapter
from conceptlens.families.kinds.layouts import Blocks, Unpacked


@register
class GlmImage(EnteredAdapter):
    name = "GLM-Image"
    classes = ("GlmImageTransformer2DModel",)
    group = SHARED
    layout = Unpacked(Blocks(attention="attn1", text_out=None))
