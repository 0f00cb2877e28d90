"""PRX: text and image keys in one softmax."""

from __future__ import annotations

from conceptlens.families.cross import register
from conceptlens.families.groups import KEYS_ONLY
from conceptlens.families.kinds.cross_attention import CrossLayout
from conceptlens.values.models import Pipeline


@register
class PRX(CrossLayout):
    name = "PRX"
    classes = ("PRXTransformer2DModel",)
    group = KEYS_ONLY
    blocks = "blocks"
    attention = "attention"
    joint = "text first"

    def default_side(self, pipeline: Pipeline) -> int:
        return pipeline.default_sample_size
