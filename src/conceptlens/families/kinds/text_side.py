"""The text half of an MM-DiT block, as FLUX.1 and Stable Diffusion 3 write it alike."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from conceptlens.families.base import Projection, Tap
from conceptlens.values.models import Module


def text_taps(attn: Module) -> Mapping[str, Tap]:
    """Where the prompt's queries, keys and attention output pass by; a last block may have no text output."""
    norms = {"query": attn.norm_added_q, "key": attn.norm_added_k}
    plain = {"query": attn.add_q_proj, "key": attn.add_k_proj}
    taps = {name: Tap(plain[name] if norm is None else norm) for name, norm in norms.items()}
    out = getattr(attn, "to_add_out", None)
    return taps if out is None else {**taps, "out": Tap(out, "input")}


def project_text(attn: Module, normed: Tensor, modulation: list[Tensor], *, fused: bool) -> Projection:
    """Text-side q, k and v with their QK-norm, where there is one."""
    if fused:
        parts = attn.to_added_qkv(normed).chunk(3, dim=-1)
    else:
        parts = (attn.add_q_proj(normed), attn.add_k_proj(normed), attn.add_v_proj(normed))
    query, key, value = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in parts)
    query = query if attn.norm_added_q is None else attn.norm_added_q(query)
    key = key if attn.norm_added_k is None else attn.norm_added_k(key)
    return Projection(query, key, value, tuple(modulation))


def project_at_origin(attn: Module, normed: Tensor, modulation: list[Tensor], *, fused: bool) -> Projection:
    """Text-side q, k and v of concepts at position zero."""
    side = project_text(attn, normed, modulation, fused=fused)
    # There the rotation is the identity, but diffusers' passes through float32, which float64 can tell.
    query, key = (t.float().to(t.dtype) for t in (side.query, side.key))
    return Projection(query, key, side.value, side.modulation)


def project_shared(attn: Module, normed: Tensor, modulation: list[Tensor], *, fused: bool = False) -> Projection:
    """Q, k and v of concepts through the weights that text and image share, with their QK-norm."""
    split = (attn.to_q, attn.to_k, attn.to_v)
    parts = attn.to_qkv(normed).chunk(3, dim=-1) if fused else [layer(normed) for layer in split]
    query, key, value = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in parts)
    query = query if attn.norm_q is None else attn.norm_q(query)
    key = key if attn.norm_k is None else attn.norm_k(key)
    return Projection(query, key, value, tuple(modulation))


def advance_text(block: Module, hidden: Tensor, out: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
    """Gated attention residual, then the gated MLP residual of the modulated norm."""
    attended = block.attn.to_add_out(out)
    return gated_residuals(hidden, attended, block.norm2_context, block.ff_context, modulation)


def gated_residuals(
    hidden: Tensor, attended: Tensor, norm: Module, feed: Module, modulation: tuple[Tensor, ...]
) -> Tensor:
    """The two residual updates of a block; `modulation` is the gate, then shift, scale and gate of the MLP."""
    gate, shift_mlp, scale_mlp, gate_mlp = modulation
    hidden = hidden + gate.unsqueeze(1) * attended
    normed = norm(hidden) * (1 + scale_mlp[:, None]) + shift_mlp[:, None]
    hidden = hidden + gate_mlp.unsqueeze(1) * feed(normed)
    return hidden.clip(-65504, 65504) if hidden.dtype == torch.float16 else hidden
