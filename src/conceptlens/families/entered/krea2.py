"""Krea 2: single-stream blocks, the text first; one list of positions for both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from conceptlens.families import register
from conceptlens.families.groups import SINGLE
from conceptlens.families.kinds.by_pipeline import EnteredAdapter
from conceptlens.families.kinds.layouts import Blocks, Layout
from conceptlens.families.kinds.reentry import EXPERIMENTAL
from conceptlens.families.kinds.rows import grid_of, replaced_text
from conceptlens.values.models import Config, Model
from conceptlens.values.records import CallRecord, TokenGrid


class _Krea2Layout(Layout):
    def grid(self, config: Config, arguments: Mapping[str, Any]) -> TokenGrid:
        return grid_of(arguments["position_ids"][-arguments[self.latents].shape[1] :])

    def enter(self, tokens: Tensor, places: Sequence[int], call: CallRecord, model: Model) -> dict[str, Any]:
        ids = replaced_text(call.arguments["position_ids"], call.settings["images"], places)
        return {**super().enter(tokens, places, call, model), "position_ids": ids}


@register
class Krea2(EnteredAdapter):
    name = "Krea 2"
    classes = ("Krea2Transformer2DModel",)
    group = SINGLE
    caveat = EXPERIMENTAL
    layout = _Krea2Layout(Blocks(joint="text first", text_out=None), masks=("encoder_attention_mask",), patch=2)
