"""HunyuanImage: a second text encoder reads what is to be written in the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from conceptlens.families import register
from conceptlens.families.groups import DUAL
from conceptlens.families.kinds.by_pipeline import EnteredAdapter
from conceptlens.families.kinds.layouts import FLUX_SINGLE, AllBlocks, Unpacked
from conceptlens.values.models import Model
from conceptlens.values.records import CallRecord


class _HunyuanImageLayout(Unpacked):
    def enter(self, tokens: Tensor, places: Sequence[int], call: CallRecord, model: Model) -> dict[str, Any]:
        entry = super().enter(tokens, places, call, model)
        second = entry.get("encoder_attention_mask_2")  # whose text says nothing while concepts are followed
        return entry if second is None else {**entry, "encoder_attention_mask_2": torch.zeros_like(second)}


@register
class HunyuanImage(EnteredAdapter):
    name = "HunyuanImage"
    classes = ("HunyuanImageTransformer2DModel",)
    group = DUAL
    layout = _HunyuanImageLayout(masks=("encoder_attention_mask",))
    all_blocks = AllBlocks(layout, replace(FLUX_SINGLE, shared="image first"))
