"""What guidance sees of a Stable Diffusion (XL) pipeline: what the prompt says, the first latents, the U-Net's maps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from conceptlens.guidance.base import Guidance, Maps
from conceptlens.readers.unet_inputs import attention_size, image_size, tokenizers_of
from conceptlens.values.early_exit import StopForward
from conceptlens.values.models import Model, Pipeline
from conceptlens.watch.prompt_text import PromptText, TextAttentionReader, read_prompt, warn_of_prompt
from conceptlens.watch.surroundings import execution_device
from conceptlens.watch.unet_attention import MapSink, capturing

USUAL_BLOCKS = {"CrossAttnDownBlock2D", "DownBlock2D", "UNetMidBlock2DCrossAttn", "CrossAttnUpBlock2D", "UpBlock2D"}
"""The parts of Stable Diffusion's U-Nets."""


class GuidedUnet:
    """A U-Net before its first step.

    Attributes:
        module: the U-Net. A compiled one is called as it was before: a forward that ends early is no graph.
        texts: the prompt of each image, once: Stable Diffusion XL's two encoders are read as one.
        latents: the first noise, at the scheduler's first level: (image, channel, rows, cols).
        arguments: of a call with the prompt alone, but for sample and timestep.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        prompts: list[str],
        guidance: Guidance,
        generators: list[torch.Generator],
        options: Mapping[str, Any],
    ) -> None:
        start = prepare(pipeline, prompts, generators, options)
        self.module = getattr(pipeline.unet, "_orig_mod", pipeline.unet)
        self.texts = tuple((text,) for text in start.texts)
        self.latents, self.arguments = start.latents, start.arguments
        self._scheduler = pipeline.scheduler
        # An early end would leave out what these do at the end of a forward.
        whole = (
            guidance.checkpointing
            or self.module.is_gradient_checkpointing
            or hasattr(self.module, "_hf_hook")
            or bool(start.arguments["cross_attention_kwargs"])
        )
        size = attention_size(self.module, start.latents.shape[-2:], guidance.attention_size)
        expected = layers_of_size(self.module, start.latents.shape[-2:], size)
        self.sink = MapSink(size, early_exit=not whole, expected=expected)

    def maps(self, latents: Tensor, timestep: Tensor) -> list[Maps]:
        """One forward with the prompt alone: (key, rows, cols) of each image, with graph."""
        self.sink.maps = {}
        with suppress(StopForward):
            scaled = self._scheduler.scale_model_input(latents, timestep)
            self.module.forward(scaled, timestep, **self.arguments, return_dict=False)
        return list(self.sink.mean())

    @contextmanager
    def reading(self) -> Iterator[None]:
        """See `GuidedModel`."""
        try:
            with capturing(self.module, self.sink):
                yield
        finally:
            self.sink.maps = {}


def layers_of_size(unet: Model, latents: Sequence[int], size: tuple[int, int]) -> int | None:
    """How many cross-attention layers have so many positions; None for a U-Net without the usual levels, or if none.

    Each level halves the one before, and the way up mirrors the way down.
    """
    config = unet.config
    middle = () if config.mid_block_type is None else (config.mid_block_type,)
    if not {*config.down_block_types, *config.up_block_types, *middle} <= USUAL_BLOCKS:
        return None
    deepest, layers = len(config.down_block_types) - 1, 0
    for name, _ in unet.named_modules():
        side, number, *_ = [*name.split("."), "", ""]
        if name.split(".")[-1] == "attn2":
            level = deepest if side == "mid_block" else int(number) if side == "down_blocks" else deepest - int(number)
            layers += math.prod(math.ceil(length / 2**level) for length in latents) == math.prod(size)
    return layers or None


@dataclass(frozen=True)
class Conditioning:
    """One run before its first step; see `GuidedUnet`."""

    texts: tuple[PromptText, ...]
    arguments: Mapping[str, Any]
    latents: Tensor


@torch.no_grad()
def prepare(
    pipeline: Pipeline, prompts: list[str], generators: list[torch.Generator], options: Mapping[str, Any]
) -> Conditioning:
    """Encodes, sets the timesteps, and draws the first latents, each as the pipeline itself will."""
    # Here, where a pipeline is open already: importing it takes long, and says so on the terminal.
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps

    device = execution_device(pipeline)
    per_prompt = options.get("num_images_per_prompt") or 1
    texts, embeds, pooled = _encode(pipeline, prompts, options, device)
    given = {n: options.get(n) for n in ("timesteps", "sigmas")}
    retrieve_timesteps(pipeline.scheduler, options.get("num_inference_steps", 50), device, **given)
    height, width = image_size(pipeline, options)
    latents = pipeline.prepare_latents(
        len(generators),
        pipeline.unet.config.in_channels,
        height,
        width,
        embeds.dtype,
        device,
        generators if len(generators) > 1 else generators[0],
        options.get("latents"),
    )
    arguments: dict[str, Any] = {
        "encoder_hidden_states": embeds,
        "cross_attention_kwargs": options.get("cross_attention_kwargs"),
    }
    if pooled is not None:
        ids = pipeline._get_add_time_ids(  # noqa: SLF001 - what the pipeline itself calls
            options.get("original_size") or (height, width),
            options.get("crops_coords_top_left", (0, 0)),
            options.get("target_size") or (height, width),
            dtype=embeds.dtype,
            text_encoder_projection_dim=pooled.shape[-1],
        )
        arguments["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids.to(device).repeat(len(pooled), 1)}
    return Conditioning(tuple(t for t in texts for _ in range(per_prompt)), arguments, latents)


def _encode(
    pipeline: Pipeline, prompts: list[str], options: Mapping[str, Any], device: torch.device
) -> tuple[list[PromptText], Tensor, Tensor | None]:
    second = hasattr(pipeline, "text_encoder_2")
    tokenizers, encoders = tokenizers_of(pipeline), [getattr(pipeline, f"text_encoder{s}", None) for s in ("", "_2")]
    encoded = [pipeline.maybe_convert_prompt(prompt, tokenizers[0]) for prompt in prompts]
    for prompt in encoded:
        warn_of_prompt(tokenizers, prompt)
    skip = options.get("clip_skip")
    with ExitStack() as stack:
        readers = [stack.enter_context(TextAttentionReader(encoder)) for encoder in encoders if encoder is not None]
        embeds, _, *pooled = pipeline.encode_prompt(
            prompt=prompts,
            device=device,
            num_images_per_prompt=options.get("num_images_per_prompt") or 1,
            do_classifier_free_guidance=False,
            lora_scale=(options.get("cross_attention_kwargs") or {}).get("scale"),
            clip_skip=skip,
        )
        attentions = [reader.attention() for reader in readers]
        ids = readers[0].input_ids
    assert ids is not None
    texts = [
        read_prompt(prompt, tokenizers[0], row, [a[n] for a in attentions], (skip or 0) + second, encoded[n])
        for n, (prompt, row) in enumerate(zip(prompts, ids, strict=True))
    ]
    return texts, embeds, pooled[0] if pooled else None
