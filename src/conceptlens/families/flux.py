"""FLUX.1: schnell, dev and every checkpoint of the same transformer class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from conceptlens.families import register
from conceptlens.families.base import Concepts, Projection, PromptEncoders
from conceptlens.families.groups import DUAL
from conceptlens.families.kinds.dual_stream import DualStreamAdapter
from conceptlens.families.kinds.layouts import FLUX_SINGLE, AllBlocks, Packed
from conceptlens.families.kinds.rows import repeat_rows, take
from conceptlens.families.kinds.text_side import project_at_origin
from conceptlens.families.kinds.tokens import embed_alone
from conceptlens.values.errors import ModelError
from conceptlens.values.models import Module, Pipeline
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import CallRecord


@register
class FluxAdapter(DualStreamAdapter):
    """Text and image stream with separate weights; concepts at position (0, 0, 0), where rotation is the identity."""

    name = "FLUX.1"
    classes = ("FluxTransformer2DModel",)
    group = DUAL
    all_blocks = AllBlocks(Packed(pooled=True), FLUX_SINGLE)
    prompts = PromptEncoders("FluxPipeline", ("",), "_2", {"true_cfg_scale": 1.0}, time=1000)

    def recipe(self, depth: int) -> Recipe:
        return Recipe(layers=tuple(range(max(0, depth - 10), depth)))

    def paper_recipe(self, depth: int) -> Recipe:
        layers = tuple(range(15, 19)) if depth == 19 else tuple(range(max(0, depth - 4), depth))
        return Recipe(layers=layers, pooling="first", preset="paper")

    def observe(self, arguments: Mapping[str, Any], rows: slice, step: int, previous: CallRecord | None) -> CallRecord:
        grid, references, kept = self.placed(arguments["img_ids"], previous)
        kept["timestep"] = take(arguments["timestep"], rows)
        kept["pooled"] = take(arguments["pooled_projections"], rows)
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

    def project(self, block: Module, hidden: Tensor, conditioning: Tensor) -> Projection:
        normed, *modulation = block.norm1_context(hidden, emb=conditioning)
        return project_at_origin(block.attn, normed, modulation, fused=self.is_fused(block.attn))

    def trained_text_length(self) -> int:
        return 512 if self.transformer.config.guidance_embeds else 256  # dev, schnell: their model cards

    def embed(self, pipeline: Pipeline, names: tuple[str, ...], recipe: Recipe, options: Mapping[str, Any]) -> Concepts:
        length = self.text_length(pipeline, options)

        def encode(text: str) -> Tensor:
            return pipeline._get_t5_prompt_embeds(text, max_sequence_length=length)[0]

        found = embed_alone(pipeline.tokenizer_2, encode, names, length, recipe.pooling)
        if recipe.pooled != "zeros":
            return found
        return replace(found, pooled=found.tokens.new_zeros(self.transformer.config.pooled_projection_dim))

    def prepare(
        self, pipeline: Pipeline, latents: Tensor, prompt: str, sigma: float, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        batch, channels, rows, cols = latents.shape
        wanted = self.transformer.config.in_channels
        if wanted != 4 * channels:
            raise ModelError(
                f"this model takes {wanted} channels, an image alone has {4 * channels}: it "
                "was made for inpainting or control. Read with a text-to-image FLUX.1, or use generate."
            )
        length = self.text_length(pipeline, options)
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
