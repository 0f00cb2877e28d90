"""HunyuanVideo 1.5: dual-stream blocks throughout; a refiner reads the text, glyphs and a first picture join it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from conceptlens.families import register
from conceptlens.families.base import Concepts, Projection, repeat_rows, take
from conceptlens.families.kinds.dual_stream import DualStreamAdapter
from conceptlens.families.kinds.first_call import clean_latents, concepts_of, noised_call, side_of
from conceptlens.families.kinds.layouts import Layout, by_latents
from conceptlens.families.kinds.text_side import project_text
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import CallRecord

_LAYOUT = Layout("HunyuanVideo 1.5", by_latents(frames=1))


@register
class HunyuanVideo15Adapter(DualStreamAdapter):
    """The video alone is rotated. Concepts join the rows of the language model; glyph and picture rows are left out.

    In the refiner concepts read each other, as words do, also with `isolate`.
    """

    name = "HunyuanVideo 1.5"
    classes = ("HunyuanVideo15Transformer3DModel",)

    def is_fused(self, attn: Any) -> bool:
        return False  # the processor of this family calls the separate layers even where fused ones exist

    def observe(self, arguments: Mapping[str, Any], rows: slice, step: int, previous: CallRecord | None) -> CallRecord:
        grid = _LAYOUT.grid(self.transformer.config, arguments)
        if previous is not None and previous.grid == grid:
            cos, sin = previous.arguments["cos"], previous.arguments["sin"]
        else:
            cos, sin = self.transformer.rope(arguments["hidden_states"])
        times = {name: arguments[name] for name in ("timestep", "timestep_r") if arguments.get(name) is not None}
        return CallRecord(step, grid, {"cos": cos, "sin": sin, **{n: take(t, rows) for n, t in times.items()}})

    def begin(self, concepts: Concepts, call: CallRecord) -> tuple[Tensor, Tensor]:
        model, timestep = self.transformer, call.arguments["timestep"]
        tokens = repeat_rows(concepts.tokens, len(timestep)).to(timestep.device, model.dtype)
        kind = torch.zeros(tokens.shape[:2], dtype=torch.long, device=tokens.device)
        hidden = model.context_embedder(tokens, timestep, None) + model.cond_type_embed(kind)
        return hidden, model.time_embed(timestep, timestep_r=call.arguments.get("timestep_r"))

    def project(self, block: Any, hidden: Tensor, conditioning: Tensor) -> Projection:
        normed, *modulation = block.norm1_context(hidden, emb=conditioning)
        return project_text(block.attn, normed, modulation, fused=False)

    def embed(self, pipeline: Any, names: tuple[str, ...], recipe: Recipe, options: Mapping[str, Any]) -> Concepts:
        return concepts_of(pipeline, _LAYOUT, names, recipe, options)

    def encode(self, pipeline: Any, pixels: Tensor) -> Tensor:
        return clean_latents(pipeline, pixels)

    def side_multiple(self, pipeline: Any) -> int:
        return side_of(pipeline, _LAYOUT)

    def native_area(self, pipeline: Any) -> int:
        return pipeline.target_size**2

    def prepare(
        self, pipeline: Any, latents: Tensor, prompt: str, sigma: float, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        return noised_call(pipeline, _LAYOUT, latents, prompt, sigma, options)
