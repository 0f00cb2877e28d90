"""Mochi: dual-stream blocks for video, with a learned rotation for each head and a narrower text stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from conceptlens.families import register
from conceptlens.families.base import Concepts, Projection
from conceptlens.families.groups import DUAL
from conceptlens.families.kinds.dual_stream import DualStreamAdapter
from conceptlens.families.kinds.latents import as_film, film_mode
from conceptlens.families.kinds.rows import repeat_rows, take
from conceptlens.families.kinds.text_side import project_text
from conceptlens.families.kinds.tokens import embed_alone
from conceptlens.values.models import Module, Pipeline
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import CallRecord, TokenGrid


@register
class MochiAdapter(DualStreamAdapter):
    """The prompt's own pooled text modulates the concepts too; timesteps run from 0, which is noise, to 1000."""

    name = "Mochi"
    classes = ("MochiTransformer3DModel",)
    group = DUAL
    guided_batch = ("negative", "prompt")

    def attention(self, block: Module) -> Module:
        return block.attn1

    def is_fused(self, attn: Module) -> bool:
        return False

    def rotate(self, heads: Tensor, call: CallRecord) -> Tensor:
        # Made anew at each block: the frequencies are a parameter of the whole model, which offloading brings in only
        # while the model runs, so they cannot be read when a call begins.
        model, grid = self.transformer, call.grid
        cos, sin = model.rope(
            model.pos_frequencies, grid.frames, grid.rows, grid.cols, device=heads.device, dtype=torch.float32
        )
        cos, sin = cos.transpose(0, 1), sin.transpose(0, 1)
        even, odd = heads[..., 0::2].float(), heads[..., 1::2].float()
        turned = ((even * cos - odd * sin).to(heads.dtype), (even * sin + odd * cos).to(heads.dtype))
        return torch.stack(turned, dim=-1).flatten(-2)

    def observe(self, arguments: Mapping[str, Any], rows: slice, step: int, previous: CallRecord | None) -> CallRecord:
        frames, height, width = arguments["hidden_states"].shape[-3:]
        patch = self.transformer.config.patch_size
        names = ("timestep", "encoder_hidden_states", "encoder_attention_mask")
        kept = {name: take(arguments[name], rows) for name in names}
        return CallRecord(step, TokenGrid(height // patch, width // patch, frames), kept)

    def begin(self, concepts: Concepts, call: CallRecord) -> tuple[Tensor, Tensor]:
        embed, given = self.transformer.time_embed, call.arguments
        text = given["encoder_hidden_states"]
        tokens = repeat_rows(concepts.tokens, len(text)).to(text)
        conditioning, _ = embed(given["timestep"], text, given["encoder_attention_mask"], hidden_dtype=text.dtype)
        return embed.caption_proj(tokens), conditioning

    def project(self, block: Module, hidden: Tensor, conditioning: Tensor) -> Projection:
        if block.context_pre_only:
            normed, modulation = block.norm1_context(hidden, conditioning), []
        else:
            normed, *modulation = block.norm1_context(hidden, conditioning)
        return project_text(block.attn1, normed, modulation, fused=False)

    def advance(self, block: Module, hidden: Tensor, out: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
        if block.context_pre_only:
            return hidden
        gate, scale_mlp, gate_mlp = (part[:, None] for part in modulation)
        hidden = hidden + block.norm2_context(block.attn1.to_add_out(out), torch.tanh(gate))
        normed = block.norm3_context(hidden, 1 + scale_mlp.to(torch.float32))
        return hidden + block.norm4_context(block.ff_context(normed), torch.tanh(gate_mlp))

    def embed(self, pipeline: Pipeline, names: tuple[str, ...], recipe: Recipe, options: Mapping[str, Any]) -> Concepts:
        length = self.text_length(pipeline, options)

        def encode(text: str) -> Tensor:
            return pipeline._get_t5_prompt_embeds(text, max_sequence_length=length)[0][0]

        return embed_alone(pipeline.tokenizer, encode, names, length, recipe.pooling)

    def encode(self, pipeline: Pipeline, pixels: Tensor) -> Tensor:
        config = pipeline.vae.config
        latents = film_mode(pipeline.vae, pixels)
        if config.latents_mean is None or config.latents_std is None:
            return latents * config.scaling_factor
        channels = (-1, *(1,) * (latents.ndim - 2))
        mean, std = (latents.new_tensor(part).view(channels) for part in (config.latents_mean, config.latents_std))
        return (latents - mean) * config.scaling_factor / std

    def side_multiple(self, pipeline: Pipeline) -> int:
        return pipeline.vae_spatial_scale_factor * self.transformer.config.patch_size

    def frame_step(self, pipeline: Pipeline) -> int:
        return pipeline.vae_temporal_scale_factor

    def native_area(self, pipeline: Pipeline) -> int:
        return pipeline.default_height * pipeline.default_width

    def prepare(
        self, pipeline: Pipeline, latents: Tensor, prompt: str, sigma: float, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        batch = len(latents)
        length = self.text_length(pipeline, options)
        embeds, mask, *_ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=length)
        return {
            "hidden_states": as_film(latents),
            "timestep": latents.new_full((batch,), (1 - sigma) * 1000),
            "encoder_hidden_states": embeds.expand(batch, -1, -1),
            "encoder_attention_mask": mask.expand(batch, -1),
        }
