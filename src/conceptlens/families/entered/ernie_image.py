"""ERNIE-Image: single-stream blocks, the image first; their rows stand on axis 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from conceptlens.families import register
from conceptlens.families.groups import SINGLE
from conceptlens.families.kinds.by_pipeline import EnteredAdapter
from conceptlens.families.kinds.layouts import Blocks, Unpacked
from conceptlens.families.kinds.reentry import EXPERIMENTAL
from conceptlens.values.models import Model
from conceptlens.values.records import CallRecord


class _RowsFirst(Blocks):
    def batch_first(self, tensor: Tensor) -> Tensor:
        return tensor.movedim(0, 1)


class _ErnieLayout(Unpacked):
    def replaced(self) -> tuple[str, ...]:
        return (*super().replaced(), "text_lens")

    def enter(self, tokens: Tensor, places: Sequence[int], call: CallRecord, model: Model) -> dict[str, Any]:
        entry = super().enter(tokens, places, call, model)
        return {**entry, "text_lens": torch.full((len(entry[self.text]),), len(tokens), device=tokens.device)}


@register
class ErnieImage(EnteredAdapter):
    name = "ERNIE-Image"
    classes = ("ErnieImageTransformer2DModel",)
    group = SINGLE
    caveat = EXPERIMENTAL
    guided_batch = ("negative", "prompt")
    layout = _ErnieLayout(
        _RowsFirst("layers", "x", "image first", "self_attention", text_out=None, shared="image first"),
        text="text_bth",
    )
