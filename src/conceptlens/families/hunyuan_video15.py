"""HunyuanVideo 1.5: dual-stream blocks throughout; a refiner reads the text, glyphs and a first picture join it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from conceptlens.families import register
from conceptlens.families.base import Concepts, Projection
from conceptlens.families.groups import DUAL
from conceptlens.families.kinds.by_pipeline import ByPipeline
from conceptlens.families.kinds.dual_stream import DualStreamAdapter
from conceptlens.families.kinds.layouts import Unpacked
from conceptlens.families.kinds.rows import repeat_rows, take
from conceptlens.families.kinds.text_side import project_text
from conceptlens.values.models import Module, Pipeline
from conceptlens.values.records import CallRecord


@register
class HunyuanVideo15Adapter(ByPipeline, DualStreamAdapter):
    """The video alone is rotated. Concepts join the rows of the language model; glyph and picture rows are left out.

    In the refiner concepts read each other, as words do, also with `isolate`.
    """

    name = "HunyuanVideo 1.5"
    classes = ("HunyuanVideo15Transformer3DModel",)
    one_picture = True  # the masks of its autoencoder and of its text have one row
    group = DUAL
    layout = Unpacked(frames=1)

    def is_fused(self, attn: Module) -> bool:
        return False  # the processor of this family calls the separate layers even where fused ones exist

    def observe(self, arguments: Mapping[str, Any], rows: slice, step: int, previous: CallRecord | None) -> CallRecord:
        grid = self.layout.grid(self.transformer.config, arguments)
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

    def project(self, block: Module, hidden: Tensor, conditioning: Tensor) -> Projection:
        normed, *modulation = block.norm1_context(hidden, emb=conditioning)
        return project_text(block.attn, normed, modulation, fused=False)

    def frame_step(self, pipeline: Pipeline) -> int:
        return pipeline.vae_scale_factor_temporal

    def native_area(self, pipeline: Pipeline) -> int:
        return pipeline.target_size**2
