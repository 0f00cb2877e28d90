"""CogView4: text and image share q, k, v and MLP weights in every block; norms and modulation are their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conceptlens.families import register
from conceptlens.families.base import Concepts, DiTAdapter, Projection
from conceptlens.families.groups import SHARED
from conceptlens.families.kinds.rows import pool_tokens, repeat_rows, take
from conceptlens.families.kinds.shared_weights import image_rows, shared_heads, shared_taps
from conceptlens.families.kinds.text_side import gated_residuals, project_shared
from conceptlens.families.kinds.tokens import concept_ids
from conceptlens.values.models import Module, Pipeline
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import CallRecord, TokenGrid

_SIZES = ("original_size", "target_size", "crop_coords")


@register
class CogView4Adapter(DiTAdapter):
    """The image alone is rotated; padding stands to the left of the text."""

    name = "CogView4"
    classes = ("CogView4Transformer2DModel",)
    group = SHARED

    def recipe(self, depth: int) -> Recipe:
        return Recipe(layers=tuple(range(max(0, depth - 10), depth)), pooled="prompt")

    def blocks(self) -> nn.ModuleList:
        return self.transformer.transformer_blocks

    def taps(self, block: Module) -> Mapping[str, Any]:
        return shared_taps(block.attn1)

    def image_rows(self, tensor: Tensor, call: CallRecord) -> Tensor:
        return image_rows(tensor, call)

    def heads(self, block: Module, tensor: Tensor) -> Tensor:
        return shared_heads(block.attn1, tensor)

    def rotate(self, heads: Tensor, call: CallRecord) -> Tensor:
        cos, sin = call.arguments["cos"], call.arguments["sin"]
        first, second = heads.chunk(2, dim=-1)
        turned = torch.cat([-second, first], dim=-1)
        return (heads.float() * cos + turned.float() * sin).to(heads.dtype)

    def observe(self, arguments: Mapping[str, Any], rows: slice, step: int, previous: CallRecord | None) -> CallRecord:
        latents, patch = arguments["hidden_states"], self.transformer.config.patch_size
        grid = TokenGrid(latents.shape[-2] // patch, latents.shape[-1] // patch)
        if previous is not None and previous.grid == grid:
            cos, sin = previous.arguments["cos"], previous.arguments["sin"]
        else:
            given = arguments.get("image_rotary_emb")
            cos, sin = (t.to(latents.device) for t in (self.transformer.rope(latents) if given is None else given))
        kept = {name: take(arguments[name], rows) for name in ("timestep", *_SIZES)}
        return CallRecord(step, grid, {**kept, "cos": cos, "sin": sin})

    def begin(self, concepts: Concepts, call: CallRecord) -> tuple[Tensor, Tensor]:
        model, given = self.transformer, call.arguments
        tokens = repeat_rows(concepts.tokens, len(given["timestep"])).to(given["timestep"].device, model.dtype)
        hidden = model.patch_embed.text_proj(tokens)
        sizes = [given[name] for name in _SIZES]
        return hidden, F.silu(model.time_condition_embed(given["timestep"], *sizes, hidden.dtype))

    def project(self, block: Module, hidden: Tensor, conditioning: Tensor) -> Projection:
        # Twelve parts, image and text in turn.
        shift, scale, *modulation = block.norm1.linear(conditioning).chunk(12, dim=1)[1::2]
        normed = block.norm1.norm_context(hidden).to(hidden.dtype) * (1 + scale[:, None]) + shift[:, None]
        return project_shared(block.attn1, normed, modulation)

    def advance(self, block: Module, hidden: Tensor, out: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
        return gated_residuals(hidden, block.attn1.to_out[0](out), block.norm2_context, block.ff, modulation)

    def embed(self, pipeline: Pipeline, names: tuple[str, ...], recipe: Recipe, options: Mapping[str, Any]) -> Concepts:
        length = self.text_length(pipeline, options)
        own = [concept_ids(pipeline.tokenizer, name, length, "GLM") for name in names]
        tokens = []
        for name, kept in zip(names, own, strict=True):
            states = self._text(pipeline, name, length)[0]
            padding = len(states) - len(pipeline.tokenizer(name).input_ids)
            tokens.append(pool_tokens(states, [padding + p for p in kept.positions], recipe.pooling))
        return Concepts(names, torch.stack(tokens), None, pieces=tuple(o.pieces for o in own))

    def _text(self, pipeline: Pipeline, text: str, length: int) -> Tensor:
        return pipeline.encode_prompt(text, do_classifier_free_guidance=False, max_sequence_length=length)[0]

    def side_multiple(self, pipeline: Pipeline) -> int:
        return max(16, pipeline.vae_scale_factor * self.transformer.config.patch_size)

    def prepare(
        self, pipeline: Pipeline, latents: Tensor, prompt: str, sigma: float, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        batch, _, rows, cols = latents.shape
        embeds = self._text(pipeline, prompt, self.text_length(pipeline, options)).expand(batch, -1, -1)
        size = embeds.new_tensor([[rows, cols]]).mul(pipeline.vae_scale_factor).expand(batch, -1)
        return {
            "hidden_states": latents,
            "timestep": latents.new_full((batch,), sigma * 1000, dtype=torch.float32),
            "encoder_hidden_states": embeds,
            "original_size": size,
            "target_size": size,
            "crop_coords": torch.zeros_like(size),
        }
