"""Where text and image pass one attention as one sequence, text first: CogView4, CogVideoX."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from conceptlens.families.base import Tap
from conceptlens.values.models import Module
from conceptlens.values.records import CallRecord


def shared_taps(attn: Module, *, fused: bool = False) -> Mapping[str, Tap]:
    """Taps of an attention whose processor joins text and image before the projections."""
    value = Tap(attn.to_qkv, select=lambda qkv: qkv.chunk(3, dim=-1)[2]) if fused else Tap(attn.to_v)
    # The processors rotate the image rows of what the norms gave in place, so what was tapped must be a copy.
    return {
        "query": Tap(attn.norm_q, select=torch.clone),
        "key": Tap(attn.norm_k, select=torch.clone),
        "value": value,
        "out": Tap(attn.to_out[0], "input"),
    }


def image_rows(tensor: Tensor, call: CallRecord) -> Tensor:
    """The last rows, which are the image's, of (batch, sequence, dim) or (batch, head, sequence, head_dim)."""
    return tensor[..., -call.grid.tokens :, :]


def shared_heads(attn: Module, tensor: Tensor) -> Tensor:
    """(batch, head, image, head_dim) of what was tapped: norms have their head axis already."""
    return tensor if tensor.ndim == 4 else tensor.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
