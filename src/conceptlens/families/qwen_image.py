"""Qwen-Image: all blocks are dual-stream; text is rotated by its position behind the image's."""

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
from conceptlens.families.kinds.rows import pool_tokens, repeat_rows, rotate_pairs, take
from conceptlens.families.kinds.text_side import gated_residuals, project_text
from conceptlens.families.kinds.tokens import encode_watched, own_tokens
from conceptlens.values.errors import ConceptError, ModelError
from conceptlens.values.models import Module, Pipeline
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import CallRecord, TokenGrid


@register
class QwenImageAdapter(DualStreamAdapter):
    """A concept stands where its last token stands in the prompt template; reference images follow the image."""

    name = "Qwen-Image"
    classes = ("QwenImageTransformer2DModel",)
    group = DUAL

    def is_fused(self, attn: Module) -> bool:
        return False  # the processor of this family calls the separate layers even where fused ones exist

    def observe(self, arguments: Mapping[str, Any], rows: slice, step: int, previous: CallRecord | None) -> CallRecord:
        if self.transformer.config.use_layer3d_rope:
            raise ModelError(
                "Qwen-Image-Layered paints several layers at once, which have no maps yet. Use Qwen-Image."
            )
        shapes, device = torch.tensor(arguments["img_shapes"][0]), arguments["hidden_states"].device
        if previous is not None and torch.equal(previous.arguments["shapes"], shapes):
            kept = {name: previous.arguments[name] for name in ("shapes", "cos", "sin")}
        else:
            cos, sin = _real(self._rotation(shapes, 1, device)[0])
            kept = {"shapes": shapes, "cos": cos, "sin": sin}
        grid, *references = (TokenGrid(height, width) for _, height, width in shapes.tolist())
        kept["timestep"] = take(arguments["timestep"], rows)
        return CallRecord(step, grid, kept, references=tuple(references))

    def _rotation(self, shapes: Tensor, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Complex rotations of the image tokens and of the first `length` text tokens."""
        images = [tuple(shape) for shape in shapes.tolist()]
        return self.transformer.pos_embed([images], max_txt_seq_len=length, device=device)

    def begin(self, concepts: Concepts, call: CallRecord) -> tuple[Tensor, tuple[Tensor, ...]]:
        model, timestep = self.transformer, call.arguments["timestep"]
        tokens = repeat_rows(concepts.tokens, len(timestep)).to(timestep.device, model.dtype)
        hidden = model.txt_in(model.txt_norm(tokens))
        positions = concepts.positions or (0,) * len(concepts.tokens)
        _, turns = self._rotation(call.arguments["shapes"], max(positions) + 1, hidden.device)
        cos, sin = _real(turns[list(positions)])
        return hidden, (model.time_text_embed(timestep.to(hidden.dtype), hidden), cos, sin)

    def project(self, block: Module, hidden: Tensor, conditioning: tuple[Tensor, ...]) -> Projection:
        vector, cos, sin = conditioning
        shift, scale, *modulation = block.txt_mod(vector).chunk(6, dim=-1)
        normed = block.txt_norm1(hidden) * (1 + scale[:, None]) + shift[:, None]
        side = project_text(block.attn, normed, modulation, fused=False)
        query, key = (rotate_pairs(t, cos, sin) for t in (side.query, side.key))
        return replace(side, query=query, key=key, unrotated=side)

    def advance(self, block: Module, hidden: Tensor, out: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
        return gated_residuals(hidden, block.attn.to_add_out(out), block.txt_norm2, block.txt_mlp, modulation)

    def embed(self, pipeline: Pipeline, names: tuple[str, ...], recipe: Recipe, options: Mapping[str, Any]) -> Concepts:
        if not hasattr(pipeline, "prompt_template_encode") or "Edit" in type(pipeline).__name__:
            raise ModelError(
                f"{type(pipeline).__name__} shows its picture to the text encoder, so no concept stands alone. "
                "Use QwenImagePipeline, or its img2img, inpaint or ControlNet kin."
            )
        length, drop = self.text_length(pipeline, options), pipeline.prompt_template_encode_start_idx

        def encode(text: str) -> Tensor:
            return pipeline._get_qwen_prompt_embeds(text)[0][0]

        empty, *texts = (encode_watched(pipeline.text_encoder, encode, text) for text in ("", *names))
        own = [
            own_tokens(pipeline.tokenizer, name, text, empty, length) for name, text in zip(names, texts, strict=True)
        ]
        places = [tuple(position - drop for position in o.positions) for o in own]
        long = [name for name, place in zip(names, places, strict=True) if place[-1] >= length]
        if long:
            raise ConceptError(f"concept {long[0][:40]!r} does not fit in {length} tokens. Use fewer words.")
        tokens = [pool_tokens(t.states, place, recipe.pooling) for t, place in zip(texts, places, strict=True)]
        ends = tuple(place[-1] for place in places)
        return Concepts(names, torch.stack(tokens), None, pieces=tuple(o.pieces for o in own), positions=ends)

    def encode(self, pipeline: Pipeline, pixels: Tensor) -> Tensor:
        config = pipeline.vae.config
        latents = pipeline.vae.encode(pixels[:, :, None]).latent_dist.mode()[:, :, 0]
        mean, std = (latents.new_tensor(values)[:, None, None] for values in (config.latents_mean, config.latents_std))
        return (latents - mean) / std

    def prepare(
        self, pipeline: Pipeline, latents: Tensor, prompt: str, sigma: float, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        batch, channels, rows, cols = latents.shape
        embeds, mask = pipeline.encode_prompt(prompt, max_sequence_length=self.text_length(pipeline, options))
        return {
            "hidden_states": pipeline._pack_latents(latents, batch, channels, rows, cols),
            "timestep": latents.new_full((batch,), sigma),
            "encoder_hidden_states": embeds.expand(batch, -1, -1),
            "encoder_hidden_states_mask": None if mask is None else mask.expand(batch, -1),
            "img_shapes": [[(1, rows // 2, cols // 2)]] * batch,
        }


def _real(turns: Tensor) -> tuple[Tensor, Tensor]:
    """Complex rotations as cosines and sines of adjacent pairs."""
    return turns.real.repeat_interleave(2, dim=-1), turns.imag.repeat_interleave(2, dim=-1)
