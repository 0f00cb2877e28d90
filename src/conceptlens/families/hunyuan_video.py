"""HunyuanVideo: FLUX.1's kind of blocks for video; a refiner reads the text before the first of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from torch import Tensor

from conceptlens.families import register
from conceptlens.families.base import Concepts, Projection
from conceptlens.families.groups import DUAL
from conceptlens.families.kinds.dual_stream import DualStreamAdapter
from conceptlens.families.kinds.latents import as_film, film_mode
from conceptlens.families.kinds.layouts import FLUX_SINGLE, AllBlocks, Unpacked
from conceptlens.families.kinds.rows import pool_tokens, repeat_rows, take
from conceptlens.families.kinds.text_side import project_text
from conceptlens.families.kinds.tokens import encode_watched, own_tokens
from conceptlens.values.errors import ConceptError, ModelError
from conceptlens.values.models import Module, Pipeline
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import CallRecord, TokenGrid


@register
class HunyuanVideoAdapter(DualStreamAdapter):
    """The video alone is rotated. In the refiner concepts read each other, as words do, also with `isolate`."""

    name = "HunyuanVideo"
    classes = ("HunyuanVideoTransformer3DModel",)
    group = DUAL
    all_blocks = AllBlocks(
        Unpacked(masks=("encoder_attention_mask",), pooled=True, frames=1),
        replace(FLUX_SINGLE, shared="image first"),
    )

    def is_fused(self, attn: Module) -> bool:
        return False  # the processor of this family calls the separate layers even where fused ones exist

    def observe(self, arguments: Mapping[str, Any], rows: slice, step: int, previous: CallRecord | None) -> CallRecord:
        config, latents = self.transformer.config, arguments["hidden_states"]
        if config.image_condition_type is not None:
            raise ModelError(
                f"this HunyuanVideo paints from a picture ({config.image_condition_type}), which nobody has tried with "
                "maps. Use the text-to-video model."
            )
        frames, height, width = latents.shape[-3:]
        grid = TokenGrid(height // config.patch_size, width // config.patch_size, frames // config.patch_size_t)
        if previous is not None and previous.grid == grid:
            cos, sin = previous.arguments["cos"], previous.arguments["sin"]
        else:
            cos, sin = self.transformer.rope(latents)
        kept = {"cos": cos, "sin": sin, "timestep": take(arguments["timestep"], rows)}
        kept["pooled"] = take(arguments["pooled_projections"], rows)
        if arguments.get("guidance") is not None:
            kept["guidance"] = take(arguments["guidance"], rows)
        return CallRecord(step, grid, kept)

    def begin(self, concepts: Concepts, call: CallRecord) -> tuple[Tensor, Tensor]:
        model, given = self.transformer, call.arguments
        pooled = given["pooled"]
        if concepts.pooled is not None:
            pooled = concepts.pooled.to(pooled).expand_as(pooled)
        tokens = repeat_rows(concepts.tokens, len(pooled)).to(pooled)
        hidden = model.context_embedder(tokens, given["timestep"], None)
        return hidden, model.time_text_embed(given["timestep"], pooled, given.get("guidance"))[0]

    def project(self, block: Module, hidden: Tensor, conditioning: Tensor) -> Projection:
        normed, *modulation = block.norm1_context(hidden, emb=conditioning)
        return project_text(block.attn, normed, modulation, fused=False)

    def embed(self, pipeline: Pipeline, names: tuple[str, ...], recipe: Recipe, options: Mapping[str, Any]) -> Concepts:
        length, drop = self.text_length(pipeline, options), DEFAULT_PROMPT_TEMPLATE["crop_start"]

        def encode(text: str) -> Tensor:
            return pipeline._get_llama_prompt_embeds(text, DEFAULT_PROMPT_TEMPLATE, max_sequence_length=length)[0][0]

        empty, *texts = (encode_watched(pipeline.text_encoder, encode, text) for text in ("", *names))
        own = [
            own_tokens(pipeline.tokenizer, name, text, empty, length) for name, text in zip(names, texts, strict=True)
        ]
        tokens = [
            pool_tokens(t.states, [p - drop for p in o.positions], recipe.pooling)
            for t, o in zip(texts, own, strict=True)
        ]
        if min(o.positions[0] for o in own) < drop:
            raise ConceptError("this tokenizer shortens the prompt template. Use the one that came with the model.")
        pooled = None
        if recipe.pooled == "zeros":
            pooled = tokens[0].new_zeros(self.transformer.config.pooled_projection_dim)
        return Concepts(names, torch.stack(tokens), pooled, pieces=tuple(o.pieces for o in own))

    def encode(self, pipeline: Pipeline, pixels: Tensor) -> Tensor:
        return film_mode(pipeline.vae, pixels) * pipeline.vae.config.scaling_factor

    def side_multiple(self, pipeline: Pipeline) -> int:
        return pipeline.vae_scale_factor_spatial * self.transformer.config.patch_size

    def frame_step(self, pipeline: Pipeline) -> int:
        return pipeline.vae_scale_factor_temporal * self.transformer.config.patch_size_t

    def native_area(self, pipeline: Pipeline) -> int:
        return 720 * 1280

    def prepare(
        self, pipeline: Pipeline, latents: Tensor, prompt: str, sigma: float, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        batch, dtype = len(latents), latents.dtype
        embeds, pooled, mask = pipeline.encode_prompt(prompt, max_sequence_length=self.text_length(pipeline, options))
        return {
            "hidden_states": as_film(latents),
            "timestep": latents.new_full((batch,), sigma * 1000, dtype=torch.float32),
            "encoder_hidden_states": embeds.to(dtype).expand(batch, -1, -1),
            "encoder_attention_mask": mask.to(dtype).expand(batch, -1),
            "pooled_projections": pooled.to(dtype).expand(batch, -1),
            "guidance": latents.new_full((batch,), options.get("guidance_scale", 6.0) * 1000.0),
        }
