"""What DAAM and OVAM share: a pipeline, and one U-Net call on a noised image, watched at its cross-attention."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from conceptlens.guidance.unets import tokenizers_of
from conceptlens.methods._options import check_range, options_of, plain
from conceptlens.methods.base import MethodInfo, SaliencyMethod
from conceptlens.readers.unets import LoadedUnet, load_unet
from conceptlens.values.errors import ModelError, RecipeError
from conceptlens.values.records import TokenGrid
from conceptlens.values.words import check_text
from conceptlens.watch.prompt_text import warn_of_cuts

SCHEDULE_STEPS, SCHEDULE_INDEX = 50, 49
"""The noise level of the official code: step 49 of a schedule of 50 (t = 1 for SDXL, t = 21 for Stable Diffusion 2)."""

Report = Callable[[str, Any, Tensor, Tensor], None]
"""Called with a layer's name, its attention module, the hidden states (batch, image, dim) and the encoded text."""


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


class UnetMethod(SaliencyMethod):
    """A method on an open Stable Diffusion XL or 2 pipeline, with settings of `kind`."""

    kind: ClassVar[type[UnetOptions]] = UnetOptions
    info = MethodInfo(text_conditioned=True, backbone="stabilityai/stable-diffusion-xl-base-1.0")

    def __init__(self, model: Any, **options: Any) -> None:
        """On an open pipeline, a `LoadedUnet`; `options` are the fields of `kind`.

        Raises:
            ModelError: for anything but a U-Net pipeline from `load_unet`.
            RecipeError: for impossible settings.
        """
        if not isinstance(model, LoadedUnet):
            raise ModelError(f"{self.name} runs on a U-Net pipeline; got a {type(model).__name__}. Open it with load.")
        self._model, self._options = model, options_of(self.kind, options)

    @classmethod
    def load(
        cls, model: Any = None, *, device: str | None = None, dtype: torch.dtype | None = None, **options: Any
    ) -> UnetMethod:
        options_of(cls.kind, options)
        return cls(load_unet(model or cls.info.backbone, device=device, dtype=dtype), **options)

    @property
    def model_id(self) -> str:
        return self._model.model_id

    @property
    def settings(self) -> Mapping[str, Any]:
        return plain(self._options)


class _Watched:
    """An attention processor that reports what comes in and then does what the model's own processor does."""

    def __init__(self, name: str, own: Any, report: Report) -> None:
        self._name, self._own, self._report = name, own, report

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **given: Any
    ) -> Any:
        if encoder_hidden_states is not None:
            self._report(self._name, attn, hidden_states, encoder_hidden_states)
        return self._own(attn, hidden_states, encoder_hidden_states=encoder_hidden_states, **given)


@contextmanager
def watch_cross_attention(unet: Any, report: Report) -> Iterator[None]:
    """Reports every call of the cross-attention layers of the down and up blocks; the U-Net computes the same bits.

    Raises:
        ModelError: for a U-Net without such layers.
    """
    layers = {name: module for name, module in unet.named_modules() if _is_watched(name)}
    if not layers:
        raise ModelError("this U-Net has no cross-attention in its down and up blocks. Use Stable Diffusion 2 or XL.")
    own = {name: module.processor for name, module in layers.items()}
    try:
        for name, module in layers.items():
            module.set_processor(_Watched(name, own[name], report))
        yield
    finally:
        for name, module in layers.items():
            module.set_processor(own[name])


def _is_watched(name: str) -> bool:
    return name.split(".")[0] in ("down_blocks", "up_blocks") and name.endswith(".attn2")


def queries(attn: Any, hidden: Float[Tensor, "batch image dim"]) -> Float[Tensor, "batch head image head_dim"]:
    """Image queries as the layer's own processor makes them."""
    split = rearrange(attn.to_q(hidden), "b n (h d) -> b h n d", h=attn.heads)
    return split if attn.norm_q is None else attn.norm_q(split)


def keys(attn: Any, context: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch head token head_dim"]:
    """Text keys as the layer's own processor makes them."""
    normed = attn.norm_encoder_hidden_states(context) if attn.norm_cross else context
    split = rearrange(attn.to_k(normed), "b n (h d) -> b h n d", h=attn.heads)
    return split if attn.norm_k is None else attn.norm_k(split)


def token_probabilities(
    query: Float[Tensor, "batch head image head_dim"], key: Float[Tensor, "batch head token head_dim"]
) -> Float[Tensor, "batch head image token"]:
    """softmax(q k / sqrt(d)) over the tokens, in float32 or better."""
    precise = torch.promote_types(query.dtype, torch.float32)
    scale = 1 / math.sqrt(query.shape[-1])
    return (query.to(precise) @ key.to(precise).transpose(-1, -2) * scale).softmax(dim=-1)


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

    def __init__(self, pipeline: Any, image: Image.Image, options: UnetOptions, seed: int) -> None:
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
        latents = vae.encode(pixels.to(device=vae.device, dtype=vae.dtype)).latent_dist.sample(self._generator)
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
        pipeline, unet = self._pipeline, self._pipeline.unet
        check_text(prompt, "prompt")
        warn_of_cuts(tokenizers_of(pipeline), prompt)
        made = pipeline.encode_prompt(
            prompt, device=unet.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        more = {}
        if unet.config.addition_embed_type == "text_time":
            sizes = [self._size, self._size, 0, 0, self._size, self._size]
            more["added_cond_kwargs"] = {
                "text_embeds": made[2].to(unet.dtype),
                "time_ids": torch.tensor([sizes], device=unet.device, dtype=unet.dtype),
            }
        timestep: Int[Tensor, " 1"] = torch.tensor([self.timestep], device=unet.device)
        unet(self.noised(), timestep, encoder_hidden_states=made[0].to(unet.dtype), **more)


def official_timestep(scheduler: Any) -> int:
    """The timestep of the official code in a scheduler's own schedule."""
    fresh = copy.deepcopy(scheduler)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # diffusers hands tensors to NumPy
        fresh.set_timesteps(SCHEDULE_STEPS)
    return round(float(fresh.timesteps[SCHEDULE_INDEX]))
