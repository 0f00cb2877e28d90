"""ConsisID: CogVideoX with a face; it takes texts of one length alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from conceptlens.families import register
from conceptlens.families.groups import SHARED
from conceptlens.families.kinds.by_pipeline import EnteredAdapter
from conceptlens.families.kinds.layouts import Blocks, Unpacked
from conceptlens.values.models import Model
from conceptlens.values.records import CallRecord


class _ConsisIDLayout(Unpacked):
    length = "max_text_seq_length"

    def enter(self, tokens: Tensor, places: Sequence[int], call: CallRecord, model: Model) -> dict[str, Any]:
        surplus = max(0, model.config.max_text_seq_length - len(tokens))
        return super().enter(torch.cat([tokens, tokens.new_zeros(surplus, *tokens.shape[1:])]), places, call, model)


@register
class ConsisID(EnteredAdapter):
    name = "ConsisID"
    classes = ("ConsisIDTransformer3DModel",)
    group = SHARED
    guided_batch = ("negative", "prompt")
    layout = _ConsisIDLayout(Blocks(attention="attn1", text_out=None), frames=0)
