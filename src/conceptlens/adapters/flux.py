"""FLUX.1: schnell, dev and every checkpoint of the same transformer class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from conceptlens.adapters import register
from conceptlens.adapters._dual_stream import DualStreamAdapter
from conceptlens.adapters._text_side import project_text
from conceptlens.adapters._tokens import concept_ids
from conceptlens.adapters.base import Concepts, Projection, grid_of, pool_tokens, references_of, repeat_rows, take
from conceptlens.errors import ModelError
from conceptlens.recipe import Recipe
from conceptlens.records import CallRecord


@register
class FluxAdapter(DualStreamAdapter):
    """Text and image stream with separate weights; concepts at position (0, 0, 0), where rotation is the identity."""

    name = "FLUX.1"
    classes = ("FluxTransformer2DModel",)

    def recipe(self, depth: int) -> Recipe:
        return Recipe(layers=tuple(range(max(0, depth - 10), depth)))

    def paper_recipe(self, depth: int) -> Recipe:
        layers = tuple(range(15, 19)) if depth == 19 else tuple(range(max(0, depth - 4), depth))
        return Recipe(layers=layers, pooling="first", preset="paper")

    def observe(self, arguments: Mapping[str, Any], rows: slice, step: int, previous: CallRecord | None) -> CallRecord:
        ids = arguments["img_ids"]
        if previous is not None and previous.arguments["img_ids"] is ids:
            grid, references = previous.grid, previous.references
            cos, sin = previous.arguments["cos"], previous.arguments["sin"]
        else:
            flat = ids if ids.ndim == 2 else ids[0]
            grid, references, (cos, sin) = grid_of(flat), references_of(flat), self.transformer.pos_embed(flat)
        kept = {
            "img_ids": ids,
            "cos": cos,
            "sin": sin,
            "timestep": take(arguments["timestep"], rows),
            "pooled": take(arguments["pooled_projections"], rows),
        }
        if arguments.get("guidance") is not None:
            kept["guidance"] = take(arguments["guidance"], rows)
        return CallRecord(step, grid, kept, references=references)

    def begin(self, concepts: Concepts, call: CallRecord) -> tuple[Tensor, Tensor]:
        model, given = self.transformer, call.arguments
        pooled = (
            given["pooled"]
            if concepts.pooled is None
            else concepts.pooled.to(given["pooled"]).expand_as(given["pooled"])
        )
        hidden = model.context_embedder(repeat_rows(concepts.tokens, len(pooled)).to(pooled))
        timestep = given["timestep"].to(hidden.dtype) * 1000
        if "guidance" in given:
            return hidden, model.time_text_embed(timestep, given["guidance"].to(hidden.dtype) * 1000, pooled)
        return hidden, model.time_text_embed(timestep, pooled)

    def project(self, block: Any, hidden: Tensor, conditioning: Tensor) -> Projection:
        normed, *modulation = block.norm1_context(hidden, emb=conditioning)
        side = project_text(block.attn, normed, modulation, fused=block.attn.fused_projections)
        # At position zero the rotation is the identity, but diffusers' passes through float32, which float64 can tell.
        query, key = (t.float().to(t.dtype) for t in (side.query, side.key))
        return Projection(query, key, side.value, side.modulation)

    def embed(self, pipeline: Any, names: tuple[str, ...], recipe: Recipe, options: Mapping[str, Any]) -> Concepts:
        length = options.get("max_sequence_length", 512)
        own = [concept_ids(pipeline.tokenizer_2, name, length, "T5") for name in names]
        states = [pipeline._get_t5_prompt_embeds(name, max_sequence_length=length)[0] for name in names]
        tokens = torch.stack([pool_tokens(s, o.positions, recipe.pooling) for s, o in zip(states, own, strict=True)])
        width = self.transformer.config.pooled_projection_dim
        pooled = tokens.new_zeros(width) if recipe.pooled == "zeros" else None
        return Concepts(names, tokens, pooled, pieces=tuple(o.pieces for o in own))

    def prepare(
        self, pipeline: Any, latents: Tensor, prompt: str, sigma: float, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        batch, channels, rows, cols = latents.shape
        wanted = self.transformer.config.in_channels
        if wanted != 4 * channels:
            raise ModelError(
                f"this model takes {wanted} channels, an image alone has {4 * channels}: it "
                "was made for inpainting or control. Read with a text-to-image FLUX.1, or use generate."
            )
        length = options.get("max_sequence_length", 512)
        embeds, pooled, text_ids = pipeline.encode_prompt(prompt, None, max_sequence_length=length)
        guidance = None
        if self.transformer.config.guidance_embeds:
            guidance = latents.new_full((batch,), options.get("guidance_scale", 0.0), dtype=torch.float32)
        device, dtype = latents.device, latents.dtype
        return {
            "hidden_states": pipeline._pack_latents(latents, batch, channels, rows, cols),
            "timestep": latents.new_full((batch,), sigma),
            "guidance": guidance,
            "pooled_projections": (pooled if prompt else torch.zeros_like(pooled)).expand(batch, -1),
            "encoder_hidden_states": embeds.expand(batch, -1, -1),
            "txt_ids": text_ids,
            "img_ids": pipeline._prepare_latent_image_ids(batch, rows // 2, cols // 2, device, dtype),
        }
