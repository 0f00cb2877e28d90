"""MiniMax-H3: one sequence of text, sound and video for all pictures of a batch."""

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
from conceptlens.families.kinds.rows import replaced_text
from conceptlens.values.models import Config, Model
from conceptlens.values.records import CallRecord, TokenGrid

_ROWS = ("position_ids", "token_tags", "timestep_indices")
"""Arguments with an entry for each row of the sequence, text first."""
_TEXT_INDICES, *_OTHER_INDICES = ("text_indices", "video_indices", "audio_indices")
"""Arguments that count out its rows."""


class _MiniMaxH3Layout(Layout):
    def grid(self, config: Config, arguments: Mapping[str, Any]) -> TokenGrid:
        """The painted video stands behind the sound; its ids are times and places, not counts."""
        ids = arguments["position_ids"][int(arguments["audio_indices"][-1]) + 1 :]
        frames, rows, cols = (len(axis.unique()) for axis in ids.unbind(dim=-1))
        return TokenGrid(rows, cols, frames if frames > 1 else None)

    def image_rows(self, config: Config, arguments: Mapping[str, Any], grid: TokenGrid) -> int:
        return len(arguments["position_ids"]) - len(arguments[_TEXT_INDICES])

    def is_shared(self, name: str, value: Tensor, arguments: Mapping[str, Any]) -> bool:
        return value.ndim < arguments[self.latents].ndim or super().is_shared(name, value, arguments)

    def enter(self, tokens: Tensor, places: Sequence[int], call: CallRecord, model: Model) -> dict[str, Any]:
        entry, given = super().enter(tokens, places, call, model), call.arguments
        more = len(tokens) - len(given[_TEXT_INDICES])
        entry |= {name: replaced_text(given[name], call.settings["images"], places) for name in _ROWS}
        entry |= {name: given[name] + more for name in _OTHER_INDICES}
        return {**entry, _TEXT_INDICES: torch.arange(len(tokens), device=tokens.device)}


@register
class MiniMaxH3(EnteredAdapter):
    name = "MiniMax-H3"
    classes = ("MiniMaxH3Transformer3DModel",)
    group = SINGLE
    caveat = EXPERIMENTAL
    layout = _MiniMaxH3Layout(Blocks(joint="text first", text_out=None), last=True)
