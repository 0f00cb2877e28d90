"""Cosmos: told the noise level itself."""

from __future__ import annotations

from conceptlens.families.cross import register
from conceptlens.families.kinds.cross_attention import CrossLayout


@register
class Cosmos(CrossLayout):
    name = "Cosmos"
    classes = ("CosmosTransformer3DModel",)
    multiple = 16

    def clock(self, noise: float) -> float:
        return noise
