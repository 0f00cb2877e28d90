"""Lumina-Next: its clock runs from noise to the picture."""

from __future__ import annotations

from conceptlens.families.cross import register
from conceptlens.families.kinds.cross_attention import CrossLayout


@register
class LuminaNext(CrossLayout):
    name = "Lumina-Next"
    classes = ("LuminaNextDiT2DModel",)
    blocks = "layers"
    multiple = 16

    def clock(self, noise: float) -> float:
        return 1 - noise
