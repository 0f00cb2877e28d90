"""CogView3 Plus: text and image share the attention's weights, text first."""

from __future__ import annotations

from conceptlens.families import register
from conceptlens.families.groups import SHARED
from conceptlens.families.kinds.by_pipeline import EnteredAdapter
from conceptlens.families.kinds.layouts import Blocks, Unpacked


@register
class CogView3Plus(EnteredAdapter):
    name = "CogView3 Plus"
    classes = ("CogView3PlusTransformer2DModel",)
    group = SHARED
    guided_batch = ("negative", "prompt")
    layout = Unpacked(Blocks(attention="attn1", text_out=None))
