"""Stable Diffusion 3.5's shape at a small size: two CLIPs and a T5, dual attention, no text out of the last block."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from einops import rearrange
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection

from flux_streams import GRID, attend, heads_of, text_heads, text_residual
from mending import MASK, Corrupted
from picture_model import ASSETS, HEAD
from text import LENGTH, WORDS, build_clip, build_t5, build_t5_tokenizer, clip_tokenizer, padded, renumbered

CLIP_WIDTHS = (32, 48)
T5_WIDTH = 96


def joint_block(
    block: nn.Module, image: Tensor, text: Tensor, temb: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One block as diffusers computes it, image before text; the last one returns the text as it came."""
    attn, length = block.attn, image.shape[1]
    normed, gate, shift_mlp, scale_mlp, gate_mlp, *second = block.norm1(image, emb=temb)
    if block.context_pre_only:
        text_normed, text_mod = block.norm1_context(text, temb), []
    else:
        text_normed, *text_mod = block.norm1_context(text, emb=temb)
    pairs = zip(heads_of(attn, normed), text_heads(attn, text_normed), strict=True)
    joint = attend(*(torch.cat(pair, 1) for pair in pairs), bias)
    image = image + gate.unsqueeze(1) * attn.to_out[0](joint[:, :length])
    if second:
        normed, gate = second
        image = image + gate.unsqueeze(1) * block.attn2.to_out[0](attend(*heads_of(block.attn2, normed)))
    normed = block.norm2(image) * (1 + scale_mlp[:, None]) + shift_mlp[:, None]
    image = image + gate_mlp.unsqueeze(1) * block.ff(normed)
    return image, text_residual(block, text, joint[:, length:], tuple(text_mod)) if text_mod else text


class SD3Model(nn.Module):
    """The transformer with its text encoders, at training speed; velocities equal those of diffusers' own forward."""

    def __init__(self, heads: int, blocks: int) -> None:
        super().__init__()
        self.t5_tokenizer = build_t5_tokenizer()
        self.clip_tokenizer = clip_tokenizer(ASSETS / "demo" / "tokenizer")
        self.t5 = build_t5(len(self.t5_tokenizer), T5_WIDTH)
        self.clips = nn.ModuleList(
            build_clip(self.clip_tokenizer, width, layers=3, kind=CLIPTextModelWithProjection) for width in CLIP_WIDTHS
        )
        self.transformer = SD3Transformer2DModel(
            sample_size=2 * GRID,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=blocks,
            attention_head_dim=HEAD,
            num_attention_heads=heads,
            joint_attention_dim=T5_WIDTH,
            caption_projection_dim=HEAD * heads,
            pooled_projection_dim=sum(CLIP_WIDTHS),
            pos_embed_max_size=2 * GRID,
            dual_attention_layers=(0, 1),
            qk_norm="rms_norm",
        )
        self.joint = joint_block
        self.register_buffer("clip_of_t5", clip_numbers(self), persistent=False)

    def tokens(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """T5's and the CLIPs' token ids of each text, (texts, LENGTH) each."""
        return padded(self.t5_tokenizer, texts), padded(self.clip_tokenizer, texts)

    def clip_ids(self, t5_ids: Tensor) -> Tensor:
        """The CLIPs' ids of captions of known words, which stand one column further on than T5's."""
        start = t5_ids.new_full((len(t5_ids), 1), self.clip_tokenizer.bos_token_id)
        return torch.cat([start, self.clip_of_t5[t5_ids[:, :-1]]], 1)

    def encode(self, clip_ids: Tensor, t5_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of text as the pipeline lays them out, (batch, 2 * LENGTH, width), the CLIPs' first; and the pooled."""
        found = [clip(clip_ids, output_hidden_states=True) for clip in self.clips]
        rows = torch.cat([one.hidden_states[-2] for one in found], -1)
        rows = F.pad(rows, (0, T5_WIDTH - rows.shape[-1]))
        pooled = torch.cat([one.text_embeds for one in found], -1)
        return torch.cat([rows, self.t5(t5_ids).last_hidden_state], 1), pooled

    def velocity(
        self, noisy: Tensor, time: Tensor, text: Tensor, pooled: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Velocity of packed latents, (batch, image, dim); text states after the last block that advances them.

        `bias` is added to the attention logits of image and text: (batch, 1, image + text, image + text).
        """
        model = self.transformer
        latents = rearrange(noisy, "b (rows cols) (c p q) -> b c (rows p) (cols q)", rows=GRID, p=2, q=2)
        image = model.pos_embed(latents).contiguous()
        temb = model.time_text_embed(time * 1000, pooled)
        text = model.context_embedder(text)
        for block in model.transformer_blocks:
            image, text = self.joint(block, image, text, temb, bias)
        patches = model.proj_out(model.norm_out(image, temb))
        return rearrange(patches, "b n (p q c) -> b n (c p q)", p=2, q=2), text


def clip_numbers(model: SD3Model) -> Tensor:
    """The CLIP token of each T5 piece that is a word or a comma; the end for the end and the padding."""
    tokenizer = model.clip_tokenizer
    numbers = renumbered(
        model.t5_tokenizer, WORDS, lambda word: tokenizer.convert_tokens_to_ids(f"{word}</w>"), tokenizer.eos_token_id
    )
    numbers[MASK] = tokenizer.convert_tokens_to_ids("'</w>")  # stands in no caption
    return numbers


def attention_bias(captions: Corrupted, masked: Tensor) -> Tensor:
    """(batch, 1, image + text, image + text): in the rows that `masked` picks, text rows see words and image alone."""
    image, rows = GRID**2, len(captions.tokens)
    bias = torch.zeros(rows, 1, image + 2 * LENGTH, image + 2 * LENGTH)
    hidden = torch.ones(rows, 2 * LENGTH, dtype=torch.bool)
    hidden[:, 1:LENGTH] = captions.tokens[:, :-1] <= 1
    bias[:, 0, image:, image:] = (hidden & masked[:, None])[:, None, :] * -1e4
    return bias


def build_pipeline(model: SD3Model, vae: Path) -> StableDiffusion3Pipeline:
    return StableDiffusion3Pipeline(
        transformer=model.transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=False),
        vae=AutoencoderKL.from_pretrained(vae).eval(),
        text_encoder=model.clips[0].eval(),
        tokenizer=model.clip_tokenizer,
        text_encoder_2=model.clips[1].eval(),
        tokenizer_2=model.clip_tokenizer,
        text_encoder_3=model.t5.eval(),
        tokenizer_3=model.t5_tokenizer,
    )
