"""FLUX.2: dev (Mistral) and klein (Qwen3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from conceptlens.families import register
from conceptlens.families.base import Concepts, Projection
from conceptlens.families.groups import DUAL
from conceptlens.families.kinds.dual_stream import DualStreamAdapter
from conceptlens.families.kinds.layouts import AllBlocks, Blocks, Packed
from conceptlens.families.kinds.rows import pool_tokens, repeat_rows, rotate_pairs, take
from conceptlens.families.kinds.text_side import project_text
from conceptlens.families.kinds.tokens import encode_watched, own_tokens
from conceptlens.values.errors import ModelError
from conceptlens.values.models import Module, Pipeline
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import CallRecord


@register
class Flux2Adapter(DualStreamAdapter):
    """One text modulation for all blocks; text is rotated by its position, concepts by that of their last token."""

    name = "FLUX.2"
    classes = ("Flux2Transformer2DModel",)
    group = DUAL
    all_blocks = AllBlocks(
        Packed(), Blocks("single_transformer_blocks", joint="text first", out="to_out", text_out=None, fused=True)
    )

    def paper_recipe(self, depth: int) -> Recipe:
        layers = tuple(range(max(0, depth - 3), depth))
        cross: dict[str, Any] = {"cross_pair": "query-key", "cross_rotated": "neither", "cross_heads": "sum"}
        scores: dict[str, Any] = {"temperature": 1000.0, "softmax_at": "mean"}
        return Recipe(layers=layers, pooling="last", pooled="prompt", preset="paper", **scores, **cross)

    def observe(self, arguments: Mapping[str, Any], rows: slice, step: int, previous: CallRecord | None) -> CallRecord:
        if arguments.get("kv_cache_mode") is not None:
            raise ModelError(
                "this pipeline caches the keys of its reference images, so blocks do not see the whole image. "
                "Use Flux2Pipeline or Flux2KleinPipeline."
            )
        grid, references, kept = self.placed(arguments["img_ids"], previous)
        kept["timestep"] = take(arguments["timestep"], rows)
        if arguments.get("guidance") is not None:
            kept["guidance"] = take(arguments["guidance"], rows)
        return CallRecord(step, grid, kept, references=references)

    def begin(self, concepts: Concepts, call: CallRecord) -> tuple[Tensor, tuple[Tensor, ...]]:
        model, given = self.transformer, call.arguments
        tokens = repeat_rows(concepts.tokens, len(given["timestep"]))
        hidden = model.context_embedder(tokens.to(given["timestep"].device, model.dtype))
        timestep, guidance = given["timestep"].to(hidden.dtype) * 1000, given.get("guidance")
        temb = model.time_guidance_embed(timestep, None if guidance is None else guidance.to(hidden.dtype) * 1000)
        ids = torch.zeros(len(concepts.tokens), given["img_ids"].shape[-1], device=hidden.device)
        if concepts.positions is not None:
            ids[:, -1] = torch.tensor(concepts.positions, device=hidden.device)
        return hidden, (model.double_stream_modulation_txt(temb), *model.pos_embed(ids))

    def project(self, block: Module, hidden: Tensor, conditioning: tuple[Tensor, ...]) -> Projection:
        vector, cos, sin = conditioning
        shift, scale, *modulation = vector.chunk(6, dim=-1)
        normed = block.norm1_context(hidden) * (1 + scale[:, None]) + shift[:, None]
        side = project_text(block.attn, normed, modulation, fused=self.is_fused(block.attn))
        query, key = (rotate_pairs(t, cos, sin) for t in (side.query, side.key))
        return replace(side, query=query, key=key, unrotated=side)

    def embed(self, pipeline: Pipeline, names: tuple[str, ...], recipe: Recipe, options: Mapping[str, Any]) -> Concepts:
        length = self.text_length(pipeline, options)

        def encode(text: str) -> Tensor:
            return pipeline.encode_prompt(text, max_sequence_length=length)[0][0]

        empty, *texts = (encode_watched(pipeline.text_encoder, encode, text) for text in ("", *names))
        tokenizer = getattr(pipeline.tokenizer, "tokenizer", pipeline.tokenizer)
        own = [own_tokens(tokenizer, name, text, empty, length) for name, text in zip(names, texts, strict=True)]
        tokens = [pool_tokens(t.states, o.positions, recipe.pooling) for t, o in zip(texts, own, strict=True)]
        positions = tuple(o.positions[-1] for o in own)
        return Concepts(names, torch.stack(tokens), None, pieces=tuple(o.pieces for o in own), positions=positions)

    def encode(self, pipeline: Pipeline, pixels: Tensor) -> Tensor:
        return pipeline._encode_vae_image(pixels, None)

    def prepare(
        self, pipeline: Pipeline, latents: Tensor, prompt: str, sigma: float, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        batch = len(latents)
        embeds, text_ids = pipeline.encode_prompt(prompt, max_sequence_length=self.text_length(pipeline, options))
        guidance = None
        if self.transformer.config.guidance_embeds:
            guidance = latents.new_full((batch,), options.get("guidance_scale", 0.0), dtype=torch.float32)
        return {
            "hidden_states": pipeline._pack_latents(latents),
            "timestep": latents.new_full((batch,), sigma),
            "guidance": guidance,
            "encoder_hidden_states": embeds.expand(batch, -1, -1),
            "txt_ids": text_ids,
            "img_ids": pipeline._prepare_latent_ids(latents).to(latents.device),
        }
