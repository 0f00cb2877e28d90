"""CogVideoX: text and video share all weights but the modulation; 2B adds positions, 5B rotates the video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import FusedCogVideoXAttnProcessor2_0
from torch import Tensor, nn

from conceptlens.families import register
from conceptlens.families.base import Concepts, DiTAdapter, Projection
from conceptlens.families.groups import SHARED
from conceptlens.families.kinds.latents import as_film, film_mode
from conceptlens.families.kinds.rows import pool_tokens, repeat_rows, rotate_pairs, take
from conceptlens.families.kinds.shared_weights import image_rows, shared_heads, shared_taps
from conceptlens.families.kinds.text_side import gated_residuals, project_shared
from conceptlens.families.kinds.tokens import concept_ids
from conceptlens.values.models import Module, Pipeline
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import CallRecord, TokenGrid


@register
class CogVideoXAdapter(DiTAdapter):
    """Noise counts along training timesteps. Films of 1.5, with two latent frames a patch, are padded in front."""

    name = "CogVideoX"
    classes = ("CogVideoXTransformer3DModel",)
    group = SHARED
    guided_batch = ("negative", "prompt")

    def recipe(self, depth: int) -> Recipe:
        return Recipe(layers=tuple(range(max(0, depth - 10), depth)), pooled="prompt")

    def paper_recipe(self, depth: int) -> Recipe:
        return Recipe(
            softmax=False, pooling="first", padding=True, pooled="prompt", cross_rotated="both", preset="paper"
        )

    def blocks(self) -> nn.ModuleList:
        return self.transformer.transformer_blocks

    def taps(self, block: Module) -> Mapping[str, Any]:
        return shared_taps(block.attn1, fused=_is_fused(block.attn1))

    def image_rows(self, tensor: Tensor, call: CallRecord) -> Tensor:
        return image_rows(tensor, call)

    def heads(self, block: Module, tensor: Tensor) -> Tensor:
        return shared_heads(block.attn1, tensor)

    def rotate(self, heads: Tensor, call: CallRecord) -> Tensor:
        given = call.arguments
        return rotate_pairs(heads, given["cos"], given["sin"]) if "cos" in given else heads

    def observe(self, arguments: Mapping[str, Any], rows: slice, step: int, previous: CallRecord | None) -> CallRecord:
        config = self.transformer.config
        _, frames, _, height, width = arguments["hidden_states"].shape
        patch, rotation = config.patch_size, arguments.get("image_rotary_emb")
        kept = {name: take(arguments[name], rows) for name in ("timestep", "ofs") if arguments.get(name) is not None}
        if rotation is not None:
            kept["cos"], kept["sin"] = rotation
        return CallRecord(step, TokenGrid(height // patch, width // patch, frames // (config.patch_size_t or 1)), kept)

    def begin(self, concepts: Concepts, call: CallRecord) -> tuple[Tensor, Tensor]:
        model, given = self.transformer, call.arguments
        timestep, count = given["timestep"], len(concepts.tokens)
        hidden = model.patch_embed.text_proj(
            repeat_rows(concepts.tokens, len(timestep)).to(timestep.device, model.dtype)
        )
        if model.config.use_learned_positional_embeddings:
            hidden = hidden + model.patch_embed.pos_embedding[:, list(concepts.positions or (0,) * count)].to(hidden)
        vector = model.time_embedding(model.time_proj(timestep).to(hidden.dtype))
        if model.ofs_embedding is not None:
            vector = vector + model.ofs_embedding(model.ofs_proj(given["ofs"]).to(hidden.dtype))
        return hidden, vector

    def project(self, block: Module, hidden: Tensor, conditioning: Tensor) -> Projection:
        active = F.silu(conditioning)
        shift, scale, gate = block.norm1.linear(active).chunk(6, dim=1)[3:]
        normed = block.norm1.norm(hidden) * (1 + scale[:, None]) + shift[:, None]
        modulation = [gate, *block.norm2.linear(active).chunk(6, dim=1)[3:]]
        return project_shared(block.attn1, normed, modulation, fused=_is_fused(block.attn1))

    def advance(self, block: Module, hidden: Tensor, out: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
        return gated_residuals(hidden, block.attn1.to_out[0](out), block.norm2.norm, block.ff, modulation)

    def trained_text_length(self) -> int:
        return self.transformer.config.max_text_seq_length

    def embed(self, pipeline: Pipeline, names: tuple[str, ...], recipe: Recipe, options: Mapping[str, Any]) -> Concepts:
        length = self.text_length(pipeline, options)
        own = [concept_ids(pipeline.tokenizer, name, length, "T5") for name in names]
        states = [self._text(pipeline, name, length)[0] for name in names]
        tokens = torch.stack([pool_tokens(s, o.positions, recipe.pooling) for s, o in zip(states, own, strict=True)])
        extra = max(0, length - len(names)) if recipe.padding else 0
        places = (0,) * extra + tuple(o.positions[0] for o in own)
        tokens = torch.cat([tokens.new_zeros(extra, tokens.shape[-1]), tokens])
        return Concepts(names, tokens, None, extra=extra, pieces=tuple(o.pieces for o in own), positions=places)

    def _text(self, pipeline: Pipeline, text: str, length: int) -> Tensor:
        return pipeline.encode_prompt(text, do_classifier_free_guidance=False, max_sequence_length=length)[0]

    def encode(self, pipeline: Pipeline, pixels: Tensor) -> Tensor:
        return film_mode(pipeline.vae, pixels) * pipeline.vae.config.scaling_factor

    def add_noise(self, pipeline: Pipeline, clean: Tensor, noise: Tensor, sigma: float) -> Tensor:
        return pipeline.scheduler.add_noise(clean, noise, self._timestep(pipeline, sigma, clean))

    def _timestep(self, pipeline: Pipeline, sigma: float, latents: Tensor) -> Tensor:
        last = pipeline.scheduler.config.num_train_timesteps - 1
        return torch.full((len(latents),), round(sigma * last), dtype=torch.int64, device=latents.device)

    def side_multiple(self, pipeline: Pipeline) -> int:
        return pipeline.vae_scale_factor_spatial * self.transformer.config.patch_size

    def frame_step(self, pipeline: Pipeline) -> int:
        return pipeline.vae_scale_factor_temporal * (self.transformer.config.patch_size_t or 1)

    def native_area(self, pipeline: Pipeline) -> int:
        config = self.transformer.config
        return config.sample_height * config.sample_width * pipeline.vae_scale_factor_spatial**2

    def prepare(
        self, pipeline: Pipeline, latents: Tensor, prompt: str, sigma: float, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        depth, factor = self.transformer.config.patch_size_t or 1, pipeline.vae_scale_factor_spatial
        film = as_film(latents).transpose(1, 2)
        film = torch.cat([film[:, :1].expand(-1, depth - 1, -1, -1, -1), film], dim=1)
        batch, frames, _, rows, cols = film.shape
        embeds = self._text(pipeline, prompt, self.text_length(pipeline, options))
        rotation = None
        if self.transformer.config.use_rotary_positional_embeddings:
            rotation = pipeline._prepare_rotary_positional_embeddings(
                rows * factor, cols * factor, frames, latents.device
            )
        return {
            "hidden_states": film,
            "encoder_hidden_states": embeds.expand(batch, -1, -1),
            "timestep": self._timestep(pipeline, sigma, latents),
            "image_rotary_emb": rotation,
        }


def _is_fused(attn: Module) -> bool:
    return isinstance(attn.processor, FusedCogVideoXAttnProcessor2_0)
