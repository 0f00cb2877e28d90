"""Z-Image: single-stream blocks, the image first; pictures and texts come as lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from conceptlens.families import register
from conceptlens.families.groups import SINGLE
from conceptlens.families.kinds.by_pipeline import EnteredAdapter
from conceptlens.families.kinds.layouts import Blocks, Unpacked
from conceptlens.families.kinds.reentry import EXPERIMENTAL
from conceptlens.values.models import Config, Model
from conceptlens.values.records import CallRecord, TokenGrid


class _ZImageLayout(Unpacked):
    def image_rows(self, config: Config, arguments: Mapping[str, Any], grid: TokenGrid) -> int:
        return -(-grid.tokens // 32) * 32  # padded

    def enter(self, tokens: Tensor, places: Sequence[int], call: CallRecord, model: Model) -> dict[str, Any]:
        entry = super().enter(tokens, places, call, model)
        return {**entry, **{name: list(entry[name].unbind(dim=0)) for name in (self.latents, self.text)}}


@register
class ZImage(EnteredAdapter):
    """Its configuration names several patch sizes, of which the pipeline takes 2."""

    name = "Z-Image"
    classes = ("ZImageTransformer2DModel",)
    group = SINGLE
    caveat = EXPERIMENTAL
    guided_batch = ("prompt", "negative")
    layout = _ZImageLayout(
        Blocks("layers", "x", joint="image first", attention="attention", text_out=None, shared="image first"),
        latents="x",
        text="cap_feats",
        timestep="t",
        patch=2,
    )
