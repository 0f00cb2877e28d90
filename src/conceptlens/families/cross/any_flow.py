"""AnyFlow and AnyFlow FAR: given the noise levels that a step begins and ends at."""

from __future__ import annotations

from typing import Any

from conceptlens.families.cross import register
from conceptlens.families.kinds.cross_attention import CrossLayout
from conceptlens.values.models import Pipeline


@register
class AnyFlow(CrossLayout):
    name = "AnyFlow"
    classes = ("AnyFlowTransformer3DModel",)
    blocks = "blocks"
    multiple = 16
    axes = "batch frame channel row col"
    times = ("timestep", "r_timestep")


@register
class AnyFlowFAR(AnyFlow):
    """Paints chunk by chunk, each with the ones before in its cache."""

    name = "AnyFlow FAR"
    classes = ("AnyFlowFARTransformer3DModel",)

    def call_options(self, pipeline: Pipeline) -> dict[str, Any]:
        # One chunk of one frame; the pipeline cannot lay out its cache for fewer chunks than it keeps in full.
        return {"chunk_partition": [1, *[0] * (pipeline.transformer.config.full_chunk_limit - 1)]}
