"""AuraFlow: four dual-stream blocks (single-stream ones follow), eight learned tokens in front of the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.attention_processor import FusedAuraFlowAttnProcessor2_0
from torch import Tensor, nn

from conceptlens.families import register
from conceptlens.families.base import Concepts, Projection
from conceptlens.families.groups import DUAL
from conceptlens.families.kinds.dual_stream import DualStreamAdapter
from conceptlens.families.kinds.layouts import AllBlocks, Blocks, Unpacked
from conceptlens.families.kinds.rows import repeat_rows, take
from conceptlens.families.kinds.text_side import project_text
from conceptlens.families.kinds.tokens import embed_alone
from conceptlens.values.models import Model, Module, Pipeline
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import CallRecord, TokenGrid


class _AuraFlowLayout(Unpacked):
    def leading_rows(self, model: Model, arguments: Mapping[str, Any]) -> int:
        return model.register_tokens.shape[1]


@register
class AuraFlowAdapter(DualStreamAdapter):
    """No rotation; the learned tokens ("registers") lead the concept stream as they lead the text."""

    name = "AuraFlow"
    classes = ("AuraFlowTransformer2DModel",)
    group = DUAL
    all_blocks = AllBlocks(
        _AuraFlowLayout(Blocks("joint_transformer_blocks")),
        Blocks("single_transformer_blocks", joint="text first", text_out=None),
    )
    guided_batch = ("negative", "prompt")

    def recipe(self, depth: int) -> Recipe:
        return Recipe(pooled="prompt")

    def blocks(self) -> nn.ModuleList:
        return self.transformer.joint_transformer_blocks

    def is_fused(self, attn: Module) -> bool:
        return isinstance(attn.processor, FusedAuraFlowAttnProcessor2_0)

    @property
    def leading_rows(self) -> int:
        return self.transformer.register_tokens.shape[1]

    def rotate(self, heads: Tensor, call: CallRecord) -> Tensor:
        return heads

    def observe(self, arguments: Mapping[str, Any], rows: slice, step: int, previous: CallRecord | None) -> CallRecord:
        patch = self.transformer.config.patch_size
        height, width = arguments["hidden_states"].shape[-2:]
        kept = {"timestep": take(arguments["timestep"], rows)}
        return CallRecord(step, TokenGrid(height // patch, width // patch), kept)

    def begin(self, concepts: Concepts, call: CallRecord) -> tuple[Tensor, Tensor]:
        model, timestep = self.transformer, call.arguments["timestep"]
        tokens = repeat_rows(concepts.tokens, len(timestep)).to(timestep.device, model.dtype)
        hidden = model.context_embedder(tokens)
        registers = model.register_tokens.to(hidden).expand(len(hidden), -1, -1)
        conditioning = model.time_step_proj(model.time_step_embed(timestep).to(hidden.dtype))
        return torch.cat([registers, hidden], dim=1), conditioning

    def project(self, block: Module, hidden: Tensor, conditioning: Tensor) -> Projection:
        normed, *modulation = block.norm1_context(hidden, emb=conditioning)
        return project_text(block.attn, normed, modulation, fused=self.is_fused(block.attn))

    def advance(self, block: Module, hidden: Tensor, out: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
        gate, shift, scale, gate_mlp = (part[:, None] for part in modulation)
        # The MLP is added to the stream as it entered the block: the attention reaches it through the MLP alone.
        normed = block.norm2_context(hidden + gate * block.attn.to_add_out(out)) * (1 + scale) + shift
        return hidden + gate_mlp * block.ff_context(normed)

    def embed(self, pipeline: Pipeline, names: tuple[str, ...], recipe: Recipe, options: Mapping[str, Any]) -> Concepts:
        length = self.text_length(pipeline, options)

        def encode(text: str) -> Tensor:
            return self._text(pipeline, text, length)[0]

        return embed_alone(pipeline.tokenizer, encode, names, length, recipe.pooling)

    def _text(self, pipeline: Pipeline, text: str, length: int) -> Tensor:
        return pipeline.encode_prompt(text, do_classifier_free_guidance=False, max_sequence_length=length)[0]

    def side_multiple(self, pipeline: Pipeline) -> int:
        return pipeline.vae_scale_factor * self.transformer.config.patch_size

    def prepare(
        self, pipeline: Pipeline, latents: Tensor, prompt: str, sigma: float, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        embeds = self._text(pipeline, prompt, self.text_length(pipeline, options))
        return {
            "hidden_states": latents,
            "timestep": latents.new_full((len(latents),), sigma),
            "encoder_hidden_states": embeds.expand(len(latents), -1, -1),
        }
