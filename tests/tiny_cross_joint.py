"""Tiny pipelines whose text is only keys and values, in one softmax with the image's own; and that softmax by hand."""

# pyright: reportArgumentType=false
# Libraries annotate tuples of any length as tuples of one, and tokenizers as one class.

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    NucleusMoEImagePipeline,
    NucleusMoEImageTransformer2DModel,
    PRXPipeline,
    PRXTransformer2DModel,
)
from torch import Tensor
from transformers import Qwen3Config, Qwen3Model

from specimens.random_models import randomize
from tiny_cross_parts import HEAD, HEADS, TEXT, t5
from tiny_models import _LLM, quiet, tiny_vae, tokenizers, word_tokenizer


def _loud(transformer: Any, *names: str) -> Any:
    for name, weight in transformer.named_parameters():
        if "experts" in name:
            weight.data.zero_()  # the class leaves them as they are in memory
    randomize(transformer)
    for name, weight in transformer.named_parameters():
        if any(part in name for part in names):
            weight.data *= 3
    return transformer


def prx_pipeline() -> PRXPipeline:
    torch.manual_seed(0)
    transformer = PRXTransformer2DModel(
        in_channels=4, context_in_dim=TEXT, hidden_size=HEADS * HEAD, num_heads=HEADS, depth=3, axes_dim=[6, 6]
    )
    words: Any = tokenizers()[1]
    text: Any = t5()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    _loud(transformer, "attention.img_qkv_proj", "attention.txt_kv_proj")
    return quiet(PRXPipeline(transformer, scheduler, text, words, tiny_vae((8, 8, 8, 8)), default_sample_size=64))


def nucleus_pipeline() -> NucleusMoEImagePipeline:
    torch.manual_seed(0)
    transformer = NucleusMoEImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        joint_attention_dim=TEXT,
        axes_dims_rope=(4, 6, 6),
        num_experts=4,
        moe_intermediate_dim=16,
        capacity_factors=2.0,
        dense_moe_strategy="leave_first_block_dense",
    )
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.1, 0.2, 0.0],
        latents_std=[1.0, 1.2, 0.8, 1.1],
    ).eval()
    words: Any = word_tokenizer()
    torch.manual_seed(3)
    text: Any = Qwen3Model(Qwen3Config(**{**_LLM, "num_hidden_layers": 9}, vocab_size=len(words))).eval()
    _loud(transformer, "attn.to_q", "attn.add_k_proj")
    made = NucleusMoEImagePipeline(transformer, FlowMatchEulerDiscreteScheduler(), vae, text, words)
    made.default_sample_size = 8
    return quiet(made)


def _rotated(rows: Tensor, angles: Any, joined: bool) -> Tensor:
    """Rows (batch, head, row, dim) turned by the model's angles."""
    if joined:  # Nucleus: complex numbers (row, dim / 2)
        turned = torch.view_as_complex(rows.float().unflatten(-1, (-1, 2)).contiguous()) * angles
        return torch.view_as_real(turned).flatten(-2).to(rows)
    pairs = rows.float().unflatten(-1, (-1, 2))
    matrix = angles.to(pairs)  # (batch, 1, row, dim / 2, 2, 2)
    return (matrix @ pairs[..., None])[..., 0].flatten(-2).to(rows)


def shares_by_hand(family: str, attn: Any, hidden: Tensor, text: Tensor, mask: Any, rotary: Any) -> tuple[Any, Any]:
    """softmax(q k / sqrt(d) + mask) over text and image: the text's part and the image's, and all values in order."""
    joined = family == "nucleus"

    def heads(rows: Tensor, count: int) -> Tensor:
        return rows.unflatten(-1, (count, -1)).transpose(1, 2)

    if joined:
        kept = attn.to_k.out_features // (attn.inner_dim // attn.heads)
        query = attn.norm_q(heads(attn.to_q(hidden), attn.heads))
        keys = [attn.norm_k(heads(attn.to_k(hidden), kept)), attn.norm_added_k(heads(attn.add_k_proj(text), kept))]
        values = [heads(attn.to_v(hidden), kept), heads(attn.add_v_proj(text), kept)]
        query = _rotated(query, rotary[0], True)
        keys = [_rotated(key, angles, True) for key, angles in zip(keys, rotary, strict=True)]
        image, words = (
            tuple(part.repeat_interleave(attn.heads // kept, dim=1) for part in pair)
            for pair in zip(keys, values, strict=True)
        )
    else:
        query, key, value = (heads(part, attn.heads) for part in attn.img_qkv_proj(hidden).chunk(3, dim=-1))
        text_key, text_value = (heads(part, attn.heads) for part in attn.txt_kv_proj(text).chunk(2, dim=-1))
        query, key = (_rotated(part, rotary, False) for part in (attn.norm_q(query), attn.norm_k(key)))
        image, words = (key, value), (attn.norm_added_k(text_key), text_value)
    scores = [torch.einsum("bhqd,bhkd->bhqk", query, part[0]) / math.sqrt(query.shape[-1]) for part in (words, image)]
    if mask is not None:
        real = mask[:, -scores[0].shape[-1] :] if joined else mask
        scores[0] = scores[0].masked_fill(~real.bool()[:, None, None], -math.inf)
    both = torch.cat(scores, dim=-1).softmax(dim=-1)
    return both.split([part.shape[-1] for part in scores], dim=-1), torch.cat([words[1], image[1]], dim=2)
