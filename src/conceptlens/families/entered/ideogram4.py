"""Ideogram 4: one sequence of text, image and padding in every argument; `indicator` tells them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from conceptlens.families import register
from conceptlens.families.groups import SINGLE
from conceptlens.families.kinds.by_pipeline import EnteredAdapter
from conceptlens.families.kinds.layouts import Blocks, Layout
from conceptlens.families.kinds.reentry import EXPERIMENTAL
from conceptlens.families.kinds.rows import grid_of, rows_at
from conceptlens.values.models import Config, Model
from conceptlens.values.records import CallRecord, TokenGrid

_TEXT, _IMAGE = 3, 2


class _Ideogram4Layout(Layout):
    def grid(self, config: Config, arguments: Mapping[str, Any]) -> TokenGrid:
        return grid_of(arguments["position_ids"][0][arguments["indicator"][0] == _IMAGE])

    def encoded_rows(self, arguments: Mapping[str, Any]) -> list[list[Tensor]]:
        pictures = zip(arguments[self.text], arguments["indicator"], strict=True)
        return [[rows[role == _TEXT] for rows, role in pictures]]

    def image_rows(self, config: Config, arguments: Mapping[str, Any], grid: TokenGrid) -> int:
        return grid.tokens

    def first_concept(self, call: CallRecord, rows: int, count: int) -> int:
        return rows - count  # padding stands in front of the text

    def enter(self, tokens: Tensor, places: Sequence[int], call: CallRecord, model: Model) -> dict[str, Any]:
        """The concepts, then the image, and no padding."""
        entry, images = super().enter(tokens, places, call, model), call.settings["images"]
        text, latents, count = entry[self.text], entry[self.latents], len(places)
        ids, role = call.arguments["position_ids"][0], call.arguments["indicator"][0]
        roles = torch.cat([role.new_full((count,), _TEXT), role.new_full((images,), _IMAGE)]).expand(len(text), -1)
        return {
            **entry,
            self.text: torch.cat([text, text.new_zeros(len(text), images, text.shape[-1])], dim=1),
            self.latents: latents.new_zeros(len(text), count + images, latents.shape[-1]),
            "position_ids": torch.cat([rows_at(ids[role == _TEXT], places), ids[role == _IMAGE]]).expand(
                len(text), -1, -1
            ),
            "segment_ids": torch.ones_like(roles),
            "indicator": roles,
        }


@register
class Ideogram4(EnteredAdapter):
    name = "Ideogram 4"
    classes = ("Ideogram4Transformer2DModel",)
    group = SINGLE
    caveat = EXPERIMENTAL
    layout = _Ideogram4Layout(Blocks("layers", joint="text first", attention="attention", text_out=None), patch=2)
