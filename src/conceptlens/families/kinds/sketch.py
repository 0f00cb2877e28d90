"""A painting on its way, as a picture."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from conceptlens.values.models import Model, Pipeline


def sketch_of(pipeline: Pipeline, latents: Float[Tensor, "batch ..."]) -> Image.Image | None:
    """Noisy latents through the autoencoder; the first picture of a batch. The painting itself is not touched.

    None where this is not known to be right: for an autoencoder other than the plain one of images, one that is moved
    to the device only when its turn comes, and packed latents that are not square.
    """
    vae: Model | None = getattr(pipeline, "vae", None)
    if vae is None or type(vae).__name__ != "AutoencoderKL" or getattr(vae, "_hf_hook", None) is not None:
        return None
    with torch.no_grad():
        first = _unpacked(pipeline, latents[:1])
        if first is None or first.ndim != 4 or first.shape[1] != vae.config.latent_channels:
            return None
        return _decoded(vae, first)


def _unpacked(pipeline: Pipeline, latents: Tensor) -> Tensor | None:
    if latents.ndim == 4:
        return latents
    side = math.isqrt(latents.shape[1])
    if side * side != latents.shape[1] or not hasattr(pipeline, "_unpack_latents"):
        return None
    pixels = 2 * side * pipeline.vae_scale_factor
    return pipeline._unpack_latents(latents, pixels, pixels, pipeline.vae_scale_factor)


def _decoded(vae: Model, latents: Tensor) -> Image.Image:
    scaled = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    pixels = vae.decode(scaled.to(vae.dtype)).sample[0].float()
    bytes_ = pixels.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(bytes_.permute(1, 2, 0).cpu().numpy())
