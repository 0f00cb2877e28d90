"""HiDream-I1: T5 states and, in each block, those of another layer of Llama; one painted area."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from conceptlens.families import register
from conceptlens.families.groups import LAYERED_TEXT
from conceptlens.families.kinds.by_pipeline import EnteredAdapter, latent_side, one_noise_level
from conceptlens.families.kinds.first_call import prompt_call
from conceptlens.families.kinds.layouts import AllBlocks, Blocks, LayeredText, Unpacked
from conceptlens.values.errors import ModelError
from conceptlens.values.models import Config, Pipeline
from conceptlens.values.records import TokenGrid


class _HiDreamLayout(LayeredText, Unpacked):
    layered = "encoder_hidden_states_llama3"
    encoders = ("_3", "_4")

    def image_rows(self, config: Config, arguments: Mapping[str, Any], grid: TokenGrid) -> int:
        # A grid that is not square is padded to the largest one.
        return grid.tokens if grid.rows == grid.cols else math.prod(config.max_resolution) // config.patch_size**2


_DUAL_STREAM = Blocks("double_stream_blocks", attention="block.attn1", out="to_out", text_out="to_out_t")
_SINGLE_STREAM = replace(
    _DUAL_STREAM, path="single_stream_blocks", joint="image first", text_out=None, shared="image first"
)


@register
class HiDream(EnteredAdapter):
    """Nothing in a call but its latents tells the size of the picture."""

    name = "HiDream-I1"
    classes = ("HiDreamImageTransformer2DModel",)
    group = LAYERED_TEXT
    guided_batch = ("negative", "prompt")
    one_area = True
    layout = _HiDreamLayout(_DUAL_STREAM, text="encoder_hidden_states_t5", timestep="timesteps", pooled=True)
    all_blocks = AllBlocks(layout, _SINGLE_STREAM)

    def prepare(
        self, pipeline: Pipeline, latents: Tensor, prompt: str, sigma: float, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        with one_noise_level(pipeline, sigma):
            call = prompt_call(pipeline, prompt, {**options, "num_images_per_prompt": len(latents)})
        painted = call.arguments[self.latents]
        if latents[0].numel() > painted[0].numel():
            side = latent_side(pipeline)
            most, (rows, cols) = painted.shape[-2] * painted.shape[-1] * side**2, latents.shape[-2:]
            raise ModelError(
                f"{self.name} takes {most} pixels at most; got {cols * side} x {rows * side}. Ask for a smaller size."
            )
        return {**call.arguments, self.latents: latents.to(painted)}
