"""Chroma: FLUX.1's blocks with one table of modulations for all of them, T5 alone, and no pooled text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from conceptlens.families import register
from conceptlens.families.base import Concepts, Projection
from conceptlens.families.groups import DUAL
from conceptlens.families.kinds.dual_stream import DualStreamAdapter
from conceptlens.families.kinds.layouts import FLUX_SINGLE, AllBlocks, Packed
from conceptlens.families.kinds.rows import repeat_rows, take
from conceptlens.families.kinds.text_side import project_at_origin
from conceptlens.families.kinds.tokens import embed_alone
from conceptlens.values.models import Module, Pipeline
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import CallRecord


class _ChromaLayout(Packed):
    def replaced(self) -> tuple[str, ...]:
        return (*super().replaced(), "attention_mask")  # of text and image; the concepts have no padding


@register
class ChromaAdapter(DualStreamAdapter):
    """Text, and so the concepts, at position (0, 0, 0), where rotation is the identity."""

    name = "Chroma"
    classes = ("ChromaTransformer2DModel",)
    group = DUAL
    all_blocks = AllBlocks(_ChromaLayout(), replace(FLUX_SINGLE, joint="text first"))

    def observe(self, arguments: Mapping[str, Any], rows: slice, step: int, previous: CallRecord | None) -> CallRecord:
        grid, references, kept = self.placed(arguments["img_ids"], previous)
        kept["timestep"] = take(arguments["timestep"], rows)
        return CallRecord(step, grid, kept, references=references)

    def begin(self, concepts: Concepts, call: CallRecord) -> tuple[Tensor, Tensor]:
        model, timestep = self.transformer, call.arguments["timestep"]
        tokens = repeat_rows(concepts.tokens, len(timestep)).to(timestep.device, model.dtype)
        hidden = model.context_embedder(tokens)
        table = model.distilled_guidance_layer(model.time_text_embed(timestep.to(hidden.dtype) * 1000))
        return hidden, table

    def project(self, block: Module, hidden: Tensor, conditioning: Tensor) -> Projection:
        model = self.transformer
        number = next(i for i, other in enumerate(model.transformer_blocks) if other is block)
        # The table: 3 rows for each single block, 6 for the image half of each dual block, then 6 for each text half.
        first = 3 * len(model.single_transformer_blocks) + 6 * (len(model.transformer_blocks) + number)
        normed, *modulation = block.norm1_context(hidden, emb=conditioning[:, first : first + 6])
        return project_at_origin(block.attn, normed, modulation, fused=self.is_fused(block.attn))

    def embed(self, pipeline: Pipeline, names: tuple[str, ...], recipe: Recipe, options: Mapping[str, Any]) -> Concepts:
        length = self.text_length(pipeline, options)

        def encode(text: str) -> Tensor:
            return pipeline._get_t5_prompt_embeds(text, max_sequence_length=length)[0][0]

        return embed_alone(pipeline.tokenizer, encode, names, length, recipe.pooling)

    def prepare(
        self, pipeline: Pipeline, latents: Tensor, prompt: str, sigma: float, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        batch, channels, rows, cols = latents.shape
        length = self.text_length(pipeline, options)
        embeds, text_ids, mask, *_ = pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=length
        )
        tokens, device, dtype = rows // 2 * (cols // 2), latents.device, latents.dtype
        mask = pipeline._prepare_attention_mask(batch, tokens, dtype, mask.expand(batch, -1))
        return {
            "hidden_states": pipeline._pack_latents(latents, batch, channels, rows, cols),
            "timestep": latents.new_full((batch,), sigma),
            "encoder_hidden_states": embeds.expand(batch, -1, -1),
            "txt_ids": text_ids,
            "img_ids": pipeline._prepare_latent_image_ids(batch, rows // 2, cols // 2, device, dtype),
            "attention_mask": mask,
        }
