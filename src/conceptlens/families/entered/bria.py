"""Bria and BRIA FIBO: FLUX.1's blocks; FIBO's take a layer of the language model each."""

from __future__ import annotations

from dataclasses import replace

from conceptlens.families import register
from conceptlens.families.groups import DUAL, LAYERED_TEXT
from conceptlens.families.kinds.by_pipeline import EnteredAdapter, latent_side
from conceptlens.families.kinds.layouts import FLUX_SINGLE, AllBlocks, LayeredText, Packed
from conceptlens.values.models import Pipeline


@register
class Bria(EnteredAdapter):
    """Its scale factor counts the patch."""

    name = "Bria"
    classes = ("BriaTransformer2DModel",)
    group = DUAL
    guided_batch = ("negative", "prompt")
    layout = Packed()
    all_blocks = AllBlocks(layout, FLUX_SINGLE)

    def side_multiple(self, pipeline: Pipeline) -> int:
        return latent_side(pipeline)


class _FiboLayout(LayeredText, Packed):
    layered = "text_encoder_layers"


@register
class BriaFibo(EnteredAdapter):
    name = "BRIA FIBO"
    classes = ("BriaFiboTransformer2DModel",)
    group = LAYERED_TEXT
    guided_batch = ("negative", "prompt")
    layout = _FiboLayout(patch=1)
    all_blocks = AllBlocks(layout, replace(FLUX_SINGLE, joint="text first"))
