"""LTX-Video and LTX-2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conceptlens.families.cross import register
from conceptlens.families.kinds.cross_attention import CrossLayout


@register
class LTXVideo(CrossLayout):
    name = "LTX-Video"
    classes = ("LTXVideoTransformer3DModel",)
    multiple = 32


@register
class LTX2(CrossLayout):
    name = "LTX-2"
    classes = ("LTX2VideoTransformer3DModel",)
    multiple = 32
    times = ("timestep", "sigma")
    aligned = True

    def for_photo(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        # A photo has no sound, so the video tokens do not look at the noise that stands for it.
        return {**arguments, "isolate_modalities": True}
