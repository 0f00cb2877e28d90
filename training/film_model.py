"""CogVideoX 1.5's shape at a small size: one T5, text and video with shared weights, two frames in each patch."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from diffusers.models.embeddings import apply_rotary_emb, get_3d_rotary_pos_embed
from einops import rearrange
from torch import Tensor, nn

from conceptlens.bench.datasets.moving import FRAMES, SIZE
from flux_streams import attend, heads_of
from picture_model import HEAD, add_binding_heads
from text import FILM_WORDS, LENGTH, build_t5, build_t5_tokenizer

LATENT = (FRAMES + 1, 4, SIZE // 2, SIZE // 2)
"""Frames, channels, rows and columns of a film's latents; the first frame stands twice, to make pairs of all."""
GRID = (LATENT[0] // 2, SIZE // 4, SIZE // 4)
"""Patches along time, rows and columns."""
PATCHES = math.prod(GRID)


def build_scheduler() -> CogVideoXDDIMScheduler:
    """That of CogVideoX: predicts the velocity, and its last timestep is pure noise."""
    return CogVideoXDDIMScheduler(
        set_alpha_to_one=True,
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        snr_shift_scale=3.0,
    )


def joint_block(
    block: nn.Module,
    video: Tensor,
    text: Tensor,
    temb: Tensor,
    rope: tuple[Tensor, Tensor],
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One block as diffusers computes it, text before video. `bias` is added to the logits of the text's rows.

    Text and video rows attend one after the other, so that nothing is added to the many logits of the video.
    """
    attn, length = block.attn1, text.shape[1]
    seen, told, gate, text_gate = block.norm1(video, text, temb)
    query, key, value = heads_of(attn, torch.cat([told, seen], 1))
    query, key = (
        torch.cat([h[:, :length], apply_rotary_emb(h[:, length:], rope, sequence_dim=1).to(h.dtype)], 1)
        for h in (query, key)
    )
    rows = [attend(query[:, :length], key, value, bias), attend(query[:, length:], key, value)]
    out = attn.to_out[0](torch.cat(rows, 1))
    video, text = video + gate * out[:, length:], text + text_gate * out[:, :length]
    seen, told, gate, text_gate = block.norm2(video, text, temb)
    out = block.ff(torch.cat([told, seen], 1))
    return video + gate * out[:, length:], text + text_gate * out[:, :length]


class FilmModel(nn.Module):
    """The transformer and its T5, at training speed; predictions equal those of diffusers' own forward."""

    def __init__(self, heads: int, blocks: int, mending: int) -> None:
        """`mending`: the blocks after which the text states are read; the others are left to the painting."""
        super().__init__()
        self.t5_tokenizer = build_t5_tokenizer(FILM_WORDS)
        self.t5 = build_t5(len(self.t5_tokenizer))
        self.transformer = CogVideoXTransformer3DModel(
            num_attention_heads=heads,
            attention_head_dim=HEAD,
            in_channels=LATENT[1],
            out_channels=LATENT[1],
            time_embed_dim=64,
            text_embed_dim=96,
            num_layers=blocks,
            sample_width=LATENT[3],
            sample_height=LATENT[2],
            sample_frames=FRAMES,
            patch_size=2,
            patch_size_t=2,
            temporal_compression_ratio=1,
            max_text_seq_length=LENGTH,
            use_rotary_positional_embeddings=True,
        )
        self.rope = get_3d_rotary_pos_embed(HEAD, None, GRID[1:], GRID[0], grid_type="slice", max_size=GRID[1:])
        self.mending, self.block = mending, joint_block
        add_binding_heads(self)

    def predict(
        self, noisy: Tensor, timestep: Tensor, text: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The scheduler's velocity, shaped like `noisy` (batch, *LATENT); text states after the `mending` block.

        `bias`: (batch, 1, text, text + video).
        """
        model = self.transformer
        temb = model.time_embedding(model.time_proj(timestep))
        both = model.patch_embed(text, noisy)
        text, video = both[:, :LENGTH].contiguous(), both[:, LENGTH:].contiguous()
        states = text
        for index, block in enumerate(model.transformer_blocks):
            video, text = self.block(block, video, text, temb, self.rope, bias)
            if index + 1 == self.mending:
                states = text
        patches = model.proj_out(model.norm_out(model.norm_final(video), temb=temb))
        patches = patches.reshape(len(noisy), *GRID, LATENT[1], 2, 2, 2)  # the last three: time, row, column
        return rearrange(patches, "b f r c d t p q -> b (f t) d (r p) (c q)"), states


def build_pipeline(model: FilmModel, vae: Path) -> CogVideoXPipeline:
    return CogVideoXPipeline(
        tokenizer=model.t5_tokenizer,
        text_encoder=model.t5.eval(),
        vae=AutoencoderKLCogVideoX.from_pretrained(vae).eval(),
        transformer=model.transformer.eval(),
        scheduler=build_scheduler(),
    )


GENERATE = {
    "height": SIZE,
    "width": SIZE,
    "num_frames": FRAMES,
    "num_inference_steps": 28,
    "max_sequence_length": LENGTH,
    "guidance_scale": 3.0,
}
