"""Stable Diffusion 3 and 3.5: medium (dual attention), large, turbo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers.models.attention_processor import FusedJointAttnProcessor2_0
from einops import rearrange
from torch import Tensor, nn

from conceptlens.families import register
from conceptlens.families.base import Concepts, DiTAdapter, Projection, PromptEncoders, Tap
from conceptlens.families.groups import DUAL
from conceptlens.families.kinds.rows import repeat_rows, take
from conceptlens.families.kinds.text_side import advance_text, project_text, text_taps
from conceptlens.families.kinds.tokens import embed_side_by_side
from conceptlens.values.errors import ModelError
from conceptlens.values.models import Module, Pipeline
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import CallRecord, TokenGrid

_CLIP_LENGTH, _UNGUIDED = 77, {"guidance_scale": 1.0}


@register
class SD3Adapter(DiTAdapter):
    """No rotation; optional QK-norm; the last block has no text output; `attn2` of medium sees the image alone."""

    name = "Stable Diffusion 3"
    classes = ("SD3Transformer2DModel",)
    group = DUAL
    prompts = PromptEncoders("StableDiffusion3Pipeline", ("", "_2"), "_3", _UNGUIDED, clip_rows=True, unused=1)
    guided_batch = ("negative", "prompt")

    def recipe(self, depth: int) -> Recipe:
        return Recipe(normalize="unit", pooled="prompt")

    def paper_recipe(self, depth: int) -> Recipe:
        return Recipe(
            normalize="unit", pooled="prompt", pooling="joined", bos=True, image_vectors="concept-pass", preset="paper"
        )

    def blocks(self) -> nn.ModuleList:
        return self.transformer.transformer_blocks

    def taps(self, block: Module) -> Mapping[str, Tap]:
        attn = block.attn
        fused = _is_fused(attn)
        if fused and attn.norm_q is not None:
            raise ModelError(
                "diffusers' fused attention leaves out the QK-norm of Stable Diffusion 3.5, so its pictures are wrong. "
                "Call pipeline.transformer.unfuse_qkv_projections() first."
            )
        linear = {
            name: Tap(attn.to_qkv, select=lambda qkv, part=part: qkv.chunk(3, dim=-1)[part]) if fused else Tap(module)
            for part, (name, module) in enumerate((("query", attn.to_q), ("key", attn.to_k), ("value", attn.to_v)))
        }
        return {
            "query": linear["query"] if attn.norm_q is None else Tap(attn.norm_q),
            "key": linear["key"] if attn.norm_k is None else Tap(attn.norm_k),
            "value": linear["value"],
            "out": Tap(attn.to_out[0], "input"),
        }

    def text_taps(self, block: Module) -> Mapping[str, Tap]:
        return text_taps(block.attn)

    def heads(self, block: Module, tensor: Tensor) -> Tensor:
        return tensor if tensor.ndim == 4 else rearrange(tensor, "b n (h d) -> b h n d", h=block.attn.heads)

    def rotate(self, heads: Tensor, call: CallRecord) -> Tensor:
        return heads

    def observe(self, arguments: Mapping[str, Any], rows: slice, step: int, previous: CallRecord | None) -> CallRecord:
        patch = self.transformer.config.patch_size
        height, width = arguments["hidden_states"].shape[-2:]
        kept = {"timestep": take(arguments["timestep"], rows), "pooled": take(arguments["pooled_projections"], rows)}
        return CallRecord(step, TokenGrid(height // patch, width // patch), kept)

    def is_perturbed(self, arguments: Mapping[str, Any]) -> bool:
        return arguments.get("skip_layers") is not None

    def begin(self, concepts: Concepts, call: CallRecord) -> tuple[Tensor, Tensor]:
        pooled = call.arguments["pooled"]
        if concepts.pooled is not None:
            pooled = concepts.pooled.to(pooled).expand_as(pooled)
        conditioning = self.transformer.time_text_embed(call.arguments["timestep"], pooled)
        return self.transformer.context_embedder(repeat_rows(concepts.tokens, len(pooled)).to(pooled)), conditioning

    def project(self, block: Module, hidden: Tensor, conditioning: Tensor) -> Projection:
        if block.context_pre_only:
            normed, modulation = block.norm1_context(hidden, conditioning), []
        else:
            normed, *modulation = block.norm1_context(hidden, emb=conditioning)
        return project_text(block.attn, normed, modulation, fused=_is_fused(block.attn))

    def advance(self, block: Module, hidden: Tensor, out: Tensor, modulation: tuple[Tensor, ...]) -> Tensor | None:
        return None if block.context_pre_only else advance_text(block, hidden, out, modulation)

    def embed(self, pipeline: Pipeline, names: tuple[str, ...], recipe: Recipe, options: Mapping[str, Any]) -> Concepts:
        def encode(text: str) -> list[Tensor]:
            return [pipeline._get_clip_prompt_embeds(text, clip_model_index=i)[0][0] for i in (0, 1)]

        tokenizers = (pipeline.tokenizer, pipeline.tokenizer_2)
        found = embed_side_by_side(tokenizers, encode, names, _CLIP_LENGTH, recipe.pooling)
        tokens, extra = found.tokens, int(recipe.bos)
        if recipe.pooling == "joined":
            tokens = torch.cat(encode(" ".join(names)), dim=-1)[1 - extra : 1 + len(names)]
        elif extra:
            tokens = torch.cat([torch.cat(encode(names[0]), dim=-1)[:1], tokens])
        pooled = None
        if recipe.pooled == "zeros":
            pooled = tokens.new_zeros(self.transformer.config.pooled_projection_dim)
        width = self.transformer.config.joint_attention_dim  # that of T5, to which the pipeline pads with zeros
        tokens = torch.nn.functional.pad(tokens, (0, width - tokens.shape[-1]))
        return replace(found, tokens=tokens, pooled=pooled, extra=extra)

    def concept_length(self, pipeline: Pipeline | None, options: Mapping[str, Any], stated: int | None = None) -> int:
        return _CLIP_LENGTH  # T5 reads the prompt alone

    def side_multiple(self, pipeline: Pipeline) -> int:
        return pipeline.vae_scale_factor * self.transformer.config.patch_size

    def prepare(
        self, pipeline: Pipeline, latents: Tensor, prompt: str, sigma: float, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        batch = len(latents)
        embeds, _, pooled, _ = pipeline.encode_prompt(
            prompt,
            None,
            None,
            do_classifier_free_guidance=False,
            max_sequence_length=self.text_length(pipeline, options),
        )
        return {
            "hidden_states": latents,
            "timestep": latents.new_full((batch,), sigma * 1000, dtype=torch.float32),
            "encoder_hidden_states": embeds.expand(batch, -1, -1),
            "pooled_projections": pooled.expand(batch, -1),
        }


def _is_fused(attn: Module) -> bool:
    """By the processor: diffusers' `unfuse_qkv_projections` leaves the flag and the fused weights behind."""
    return isinstance(attn.processor, FusedJointAttnProcessor2_0)
