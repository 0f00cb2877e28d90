"""Nucleus-Image: text and image keys in one softmax; the text's are placed beside the picture."""

from __future__ import annotations

from conceptlens.families.cross import register
from conceptlens.families.groups import KEYS_ONLY
from conceptlens.families.kinds.cross_attention import CrossLayout
from conceptlens.values.models import Pipeline


@register
class Nucleus(CrossLayout):
    name = "Nucleus-Image"
    classes = ("NucleusMoEImageTransformer2DModel",)
    group = KEYS_ONLY
    attention = "attn"
    joint = "image first"
    placed = True

    def default_side(self, pipeline: Pipeline) -> int:
        return pipeline.default_sample_size * pipeline.vae_scale_factor
