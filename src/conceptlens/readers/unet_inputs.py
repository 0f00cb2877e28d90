"""What goes into a Stable Diffusion pipeline's U-Net: sizes, texts, and an image at one noise level."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from conceptlens.values.errors import ModelError, RecipeError
from conceptlens.values.models import Model, Pipeline, Scheduler
from conceptlens.values.options import check_range
from conceptlens.values.records import TokenGrid
from conceptlens.values.words import check_text
from conceptlens.watch.prompt_text import warn_of_cuts
from conceptlens.watch.surroundings import execution_device

SCHEDULE_STEPS, SCHEDULE_INDEX = 50, 49
"""The noise level of the official code: step 49 of a schedule of 50 (t = 1 for SDXL, t = 21 for Stable Diffusion 2)."""


@dataclass(frozen=True)
class UnetOptions:
    """How an image is shown to the U-Net.

    Attributes:
        size: side in pixels of the square that the image is resized to.
        timestep: noise level as an integer of the training schedule; None for that of the official code.
        samples: noise draws whose maps are averaged.
    """

    size: int = 512
    timestep: int | None = None
    samples: int = 1

    def __post_init__(self) -> None:
        check_range("size", self.size, 8, 4096)
        check_range("samples", self.samples, 1, 1000)
        if self.timestep is not None:
            check_range("timestep", self.timestep, 0, 100_000)


def attention_size(unet: Model, latents: Sequence[int], wanted: tuple[int, int] | None = None) -> tuple[int, int]:
    """(rows, cols) of the cross-attention to read: as wanted, or else that at a quarter of the latents' size.

    In a U-Net that has none of that size it is that of the finest.

    Raises:
        ModelError: when there are layers with as many positions as are wanted, in another shape.
    """
    if wanted is not None:
        for level in range(len(unet.config.down_block_types)):
            rows, cols = (math.ceil(side / 2**level) for side in latents)
            if rows * cols == math.prod(wanted) and (rows, cols) != wanted:
                raise ModelError(
                    f"no cross-attention layer has {wanted[0]}x{wanted[1]} (rows x columns), but there are layers with "
                    f"{rows}x{cols} positions. Give attention_size=({rows}, {cols})."
                )
        return wanted
    levels = [level for level, kind in enumerate(unet.config.down_block_types) if "CrossAttn" in kind]
    level = 2 if 2 in levels or not levels else levels[0]
    rows, cols = (math.ceil(side / 2**level) for side in latents)
    return rows, cols


def image_size(pipeline: Pipeline, options: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width in pixels, as the pipeline reads its options."""
    sample, factor = pipeline.unet.config.sample_size, pipeline.vae_scale_factor
    rows, cols = (sample, sample) if isinstance(sample, int) else sample
    height, width = options.get("height"), options.get("width")
    if hasattr(pipeline, "text_encoder_2"):
        return height or rows * factor, width or cols * factor
    return (height, width) if height and width else (rows * factor, cols * factor)


def tokenizers_of(pipeline: Pipeline) -> list[Any]:
    """Those whose text encoders are there: SDXL's refiner has only the second."""
    endings = [ending for ending in ("", "_2") if getattr(pipeline, f"text_encoder{ending}", None) is not None]
    return [getattr(pipeline, f"tokenizer{ending}") for ending in endings]


def layer_grid(tokens: int, latents: TokenGrid) -> TokenGrid:
    """The grid of a layer with `tokens` image tokens: the latents' own, halved (rounding up) until it fits."""
    rows, cols = latents.rows, latents.cols
    while rows * cols > tokens:
        rows, cols = -(-rows // 2), -(-cols // 2)
    if rows * cols != tokens:
        raise ModelError(f"a layer has {tokens} image tokens, which no halving of {latents.rows}x{latents.cols} gives.")
    return TokenGrid(rows, cols)


class NoisedImage:
    """An image at one noise level, ready to be shown to the U-Net of a pipeline.

    Args:
        pipeline: Stable Diffusion 2 or XL.
        image: RGB.
        options: size and noise level.
        seed: draws the VAE's sample and then the noise of each sample, on the CPU.
    """

    def __init__(self, pipeline: Pipeline, image: Image.Image, options: UnetOptions, seed: int) -> None:
        self._pipeline, self._size = pipeline, options.size
        self.timestep = official_timestep(pipeline.scheduler) if options.timestep is None else options.timestep
        levels = pipeline.scheduler.alphas_cumprod
        if self.timestep >= len(levels):
            raise RecipeError(f"timestep must be below {len(levels)}, where the schedule ends; got {self.timestep}.")
        self._kept = float(levels[self.timestep])
        self._generator = torch.Generator("cpu").manual_seed(seed)
        vae, multiple = pipeline.vae, pipeline.vae_scale_factor
        if options.size % multiple:
            raise RecipeError(f"size must be a multiple of {multiple} for this model; got {options.size}.")
        square = image.resize((options.size, options.size), Image.Resampling.BICUBIC)
        pixels = pipeline.image_processor.preprocess(square)
        with _in_float32(vae):
            pixels = pixels.to(device=execution_device(pipeline), dtype=vae.dtype)
            latents = vae.encode(pixels).latent_dist.sample(self._generator)
        self._clean = (latents - (vae.config.get("shift_factor") or 0.0)) * vae.config.scaling_factor
        self.grid = TokenGrid(*self._clean.shape[-2:])

    def noised(self) -> Float[Tensor, "1 channel rows cols"]:
        """What the U-Net gets: sqrt(a) x0 + sqrt(1 - a) noise, with a the schedule's cumulative alpha.

        For every scheduler of the diffusion kind this is `scale_model_input` of `add_noise` at the same timestep.
        """
        noise = torch.randn(self._clean.shape, generator=self._generator, dtype=torch.float32, device="cpu")
        noise = noise.to(self._clean)
        mixed = math.sqrt(self._kept) * self._clean + math.sqrt(1 - self._kept) * noise
        return mixed.to(self._pipeline.unet.dtype)

    def show(self, prompt: str) -> None:
        """One U-Net call on a new noise draw, with the prompt alone (no guidance)."""
        pipeline, unet, device = self._pipeline, plain_unet(self._pipeline), execution_device(self._pipeline)
        check_text(prompt, "prompt")
        warn_of_cuts(tokenizers_of(pipeline), prompt)
        states, pooled = encode_prompt(pipeline, prompt)
        more = {}
        if unet.config.addition_embed_type == "text_time" and pooled is not None:
            sizes = [self._size, self._size, 0, 0, self._size, self._size]
            more["added_cond_kwargs"] = {
                "text_embeds": pooled.to(unet.dtype),
                "time_ids": torch.tensor([sizes], device=device, dtype=unet.dtype),
            }
        timestep: Int[Tensor, " 1"] = torch.tensor([self.timestep], device=device)
        unet(self.noised(), timestep, encoder_hidden_states=states.to(unet.dtype), **more)


@contextmanager
def _in_float32(vae: Model) -> Iterator[None]:
    """Inside it an autoencoder in float16 is in float32, since that of Stable Diffusion XL overflows otherwise."""
    half = vae.dtype == torch.float16
    try:
        if half:
            vae.to(dtype=torch.float32)
        yield
    finally:
        if half:
            vae.to(dtype=torch.float16)


def plain_unet(pipeline: Pipeline) -> Model:
    """The U-Net, also where `torch.compile` wraps it: what is watched layer by layer is no graph."""
    return getattr(pipeline.unet, "_orig_mod", pipeline.unet)


def encode_prompt(
    pipeline: Pipeline, prompt: str
) -> tuple[Float[Tensor, "1 token dim"], Float[Tensor, "1 pooled"] | None]:
    """What the pipeline makes of a prompt, padded, without guidance: the states, and of SDXL the pooled vector."""
    device = execution_device(pipeline)
    states, _, *pooled = pipeline.encode_prompt(
        prompt, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return states, pooled[0] if pooled else None


def official_timestep(scheduler: Scheduler) -> int:
    """The timestep of the official code in a scheduler's own schedule."""
    fresh = copy.deepcopy(scheduler)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # diffusers hands tensors to NumPy
        fresh.set_timesteps(SCHEDULE_STEPS)
    return round(float(fresh.timesteps[SCHEDULE_INDEX]))
