"""AnyFlow: told the noise levels that a step begins and ends at."""

from __future__ import annotations

from conceptlens.families.cross import register
from conceptlens.families.kinds.cross_attention import CrossLayout


@register
class AnyFlow(CrossLayout):
    name = "AnyFlow"
    classes = ("AnyFlowTransformer3DModel",)
    blocks = "blocks"
    multiple = 16
    axes = "batch frame channel row col"
    times = ("timestep", "r_timestep")
