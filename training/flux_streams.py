"""FLUX.1's forward at training speed, with every stream in reach: image, text and, where asked for, concepts."""

from __future__ import annotations

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn

from text import LENGTH

GRID = 16


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Plain attention: at this size twice as fast on a CPU, forward and backward, as the fused kernel.

    `bias` is added to the logits: (batch, 1, query, key).
    """
    with torch.autocast("cpu", enabled=False):
        q, k, v = (t.to(value.dtype).transpose(1, 2).contiguous() for t in (query, key, value))
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        weights = (logits if bias is None else logits + bias.to(logits.dtype)).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)


def heads_of(attn: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (p(hidden).unflatten(-1, (attn.heads, -1)) for p in (attn.to_q, attn.to_k, attn.to_v))
    return attn.norm_q(query), attn.norm_k(key), value


def text_heads(attn: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (
        p(hidden).unflatten(-1, (attn.heads, -1)) for p in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
    )
    return attn.norm_added_q(query), attn.norm_added_k(key), value


def text_residual(block: nn.Module, hidden: Tensor, out: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
    gate, shift, scale, gate_mlp = modulation
    hidden = hidden + gate.unsqueeze(1) * block.attn.to_add_out(out)
    normed = block.norm2_context(hidden) * (1 + scale[:, None]) + shift[:, None]
    return hidden + gate_mlp.unsqueeze(1) * block.ff_context(normed)


def joint_block(  # noqa: PLR0913 - the arguments of diffusers' block, the concepts' beside them
    block: nn.Module,
    image: Tensor,
    text: Tensor,
    concepts: Tensor | None,
    temb: Tensor,
    concept_temb: Tensor,
    rope: tuple[Tensor, Tensor],
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One FLUX.1 double block for image and text (as diffusers computes it), plus the concept stream beside it."""
    attn, length = block.attn, text.shape[1]
    image_normed, gate, shift_mlp, scale_mlp, gate_mlp = block.norm1(image, emb=temb)
    text_normed, *text_mod = block.norm1_context(text, emb=temb)
    query, key, value = heads_of(attn, image_normed)
    text_q, text_k, text_v = text_heads(attn, text_normed)
    image_q, image_k = (apply_rotary_emb(heads, rope, sequence_dim=1) for heads in (query, key))
    joint = attend(
        torch.cat([text_q.to(image_q.dtype), image_q], 1),
        torch.cat([text_k.to(image_k.dtype), image_k], 1),
        torch.cat([text_v, value], 1),
        bias,
    )
    image = image + gate.unsqueeze(1) * attn.to_out[0](joint[:, length:])
    normed = block.norm2(image) * (1 + scale_mlp[:, None]) + shift_mlp[:, None]
    image = image + gate_mlp.unsqueeze(1) * block.ff(normed)
    text = text_residual(block, text, joint[:, :length], tuple(text_mod))
    if concepts is not None:
        normed, *modulation = block.norm1_context(concepts, emb=concept_temb)
        concept_q, concept_k, concept_v = text_heads(attn, normed)
        keys = torch.cat([concept_k.to(image_k.dtype), image_k], 1)
        out = attend(concept_q, keys, torch.cat([concept_v, value], 1))
        concepts = text_residual(block, concepts, out, tuple(modulation))
    return image, text, concepts


def single_block(
    block: nn.Module, tokens: Tensor, temb: Tensor, rope: tuple[Tensor, Tensor], bias: Tensor | None = None
) -> Tensor:
    attn = block.attn
    normed, gate = block.norm(tokens, emb=temb)
    query, key, value = heads_of(attn, normed)
    query, key = (apply_rotary_emb(heads, rope, sequence_dim=1) for heads in (query, key))
    out = torch.cat([attend(query, key, value, bias), block.act_mlp(block.proj_mlp(normed))], 2)
    return tokens + gate.unsqueeze(1) * block.proj_out(out)


class Streams(nn.Module):
    """FLUX.1's forward with the concept stream. Without `bias`, velocities equal those of diffusers' own forward."""

    def __init__(self, transformer: FluxTransformer2DModel, compiled: bool = False) -> None:
        super().__init__()
        self.transformer = transformer
        self.joint = torch.compile(joint_block, dynamic=False) if compiled else joint_block
        self.single = torch.compile(single_block, dynamic=False) if compiled else single_block
        rows, cols = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
        ids = torch.stack([torch.zeros(GRID, GRID), rows, cols], -1).flatten(0, 1).float()
        cos, sin = transformer.pos_embed(ids)
        text_cos, text_sin = transformer.pos_embed(torch.zeros(LENGTH, 3))
        self.rope = (cos, sin)
        self.joint_rope = (torch.cat([text_cos, cos]), torch.cat([text_sin, sin]))

    def forward(
        self,
        noisy: Tensor,
        time: Tensor,
        text: Tensor,
        pooled: Tensor,
        concepts: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Velocity; text and concept states after the last double block. `bias`: of the double blocks' attention."""
        model = self.transformer
        temb = model.time_text_embed(time * 1000, pooled)
        concept_temb = model.time_text_embed(time * 1000, torch.zeros_like(pooled))
        image, text = model.x_embedder(noisy), model.context_embedder(text)
        concepts = None if concepts is None else model.context_embedder(concepts)
        for block in model.transformer_blocks:
            image, text, concepts = self.joint(block, image, text, concepts, temb, concept_temb, self.rope, bias)
        tokens = torch.cat([text, image], 1)
        for block in model.single_transformer_blocks:
            tokens = self.single(block, tokens, temb, self.joint_rope)
        return model.proj_out(model.norm_out(tokens[:, LENGTH:], temb)), text, concepts
