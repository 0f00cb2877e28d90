"""Cross attention of the families written out from their papers, to hold what is observed against."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor

from tiny_cross_joint import shares_by_hand

NO_QUERY_NORM = ("pixart", "pixart-alpha", "latte", "allegro")
JOINT = ("prx", "nucleus")
NORM_OF_HEADS = ("hunyuan-dit", "kandinsky-5", "kandinsky-5-image", "kandinsky-6", "cosmos")


@dataclass(frozen=True)
class Call:
    """What a cross-attention module was given, and what it made of it."""

    attn: Any
    hidden: Tensor
    text: Tensor
    mask: Tensor | None
    rotary: Any
    output: Tensor

    def part(self, *names: str) -> Any:
        """A module under the first of some names that it has."""
        return next(getattr(self.attn, name) for name in names if hasattr(self.attn, name))

    def heads(self, rows: Tensor) -> Tensor:
        """Rows as (batch, row, head, dim); keys and values are shared by some heads where there are fewer."""
        count = self.part("heads", "num_heads")
        split = rows.unflatten(2, (-1, self.part("to_q", "to_query").out_features // count))
        return split.repeat_interleave(count // split.shape[2], dim=2)


def expected(family: str, call: Call) -> Tensor:
    """softmax(q k / sqrt(d) + mask) written out from the paper of the family, (batch, head, image, token)."""
    if family in JOINT:
        return shares_by_hand(family, call.attn, call.hidden, call.text, call.mask, call.rotary)[0][0]
    query, key = call.part("to_q", "to_query")(call.hidden), call.part("to_k", "to_key")(call.text)
    if family not in (*NO_QUERY_NORM, *NORM_OF_HEADS):
        query, key = call.attn.norm_q(query), call.attn.norm_k(key)
    query, key = call.heads(query), call.heads(key)
    if family in NORM_OF_HEADS:
        norms = call.part("norm_q", "query_norm"), call.part("norm_k", "key_norm")
        query, key = (norm(part.to(norm.weight.dtype)).to(part) for norm, part in zip(norms, (query, key), strict=True))
    if family == "hunyuan-dit":
        query = cast("Tensor", apply_rotary_emb(query.transpose(1, 2), call.rotary)).transpose(1, 2)
    if family == "lumina-next":
        query = cast("Tensor", apply_rotary_emb(query, call.rotary, use_real=False))
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(query.shape[-1])
    if call.mask is not None and call.mask.dtype == torch.bool:
        scores = scores.masked_fill(~call.mask.flatten(1)[:, None, None], -math.inf)
    elif call.mask is not None:
        scores = scores + call.mask.unsqueeze(1)
    return scores.softmax(dim=-1)


def mixed(family: str, call: Call, shares: Tensor) -> Tensor:
    """The output of the module with given attention."""
    if family in JOINT:
        parts, values = shares_by_hand(family, call.attn, call.hidden, call.text, call.mask, call.rotary)
        joint = torch.cat([shares, parts[1]], dim=-1)
        return call.attn.to_out[0](torch.einsum("bhqk,bhkd->bqhd", joint, values).flatten(2))
    made = torch.einsum("bhqk,bkhd->bqhd", shares, call.heads(call.part("to_v", "to_value")(call.text)))
    if family == "lumina-next":  # its block weighs the heads and projects them
        return made
    if family == "ltx-2":
        made = made * 2 * call.attn.to_gate_logits(call.hidden).sigmoid().unsqueeze(-1)
    return (call.attn.to_out[0] if hasattr(call.attn, "to_out") else call.attn.out_layer)(made.flatten(2))
