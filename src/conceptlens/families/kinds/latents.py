"""Photos as latents, and latents at a noise level, as the schedulers of diffusers have them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from conceptlens.values.models import Model, Scheduler


def is_flow(scheduler: Scheduler) -> bool:
    """Whether a scheduler goes along the straight path of flow matching."""
    config = scheduler.config
    named = type(scheduler).__name__.startswith(("FlowMatch", "FlowMap", "Piflow"))
    flow_steps = getattr(config, "use_flow_sigmas", False)
    return named or getattr(config, "prediction_type", "") == "flow_prediction" or bool(flow_steps)


def timestep_of(scheduler: Scheduler, noise: float) -> float:
    """The training timestep of a noise level in 0..1."""
    last = scheduler.config.num_train_timesteps
    return noise * last if is_flow(scheduler) else float(round(noise * (last - 1)))


def noised(
    scheduler: Scheduler,
    clean: Float[Tensor, "batch channel ..."],
    noise: Float[Tensor, "batch channel ..."],
    sigma: float,
) -> Tensor:
    """Latents at a noise level in 0..1.

    On the straight path for flow models; sqrt(a) x0 + sqrt(1 - a) noise along the training timesteps of others.
    """
    if is_flow(scheduler):
        return torch.lerp(clean, noise, sigma)
    signal = float(scheduler.alphas_cumprod[int(timestep_of(scheduler, sigma))])
    return signal**0.5 * clean + (1 - signal) ** 0.5 * noise


def is_video(vae: Model) -> bool:
    """Whether an autoencoder takes (batch, channel, frame, row, col)."""
    return any(isinstance(module, nn.Conv3d) for module in vae.encoder.modules())


def as_film(tensor: Float[Tensor, "batch channel ... cols"]) -> Float[Tensor, "batch channel frame rows cols"]:
    """Films; pictures, which have no axis of frames, as films of one frame."""
    return tensor if tensor.ndim == 5 else tensor[:, :, None]


def film_mode(vae: Model, pixels: Float[Tensor, "batch 3 ... width"]) -> Float[Tensor, "batch channel ... cols"]:
    """The mode of a video autoencoder, not yet scaled, with an axis of frames where the pixels have one."""
    latents = vae.encode(as_film(pixels)).latent_dist.mode()
    return latents if pixels.ndim == 5 else latents[:, :, 0]


def clean_latents(
    vae: Model, pixels: Float[Tensor, "batch 3 ... width"], *, shifted: bool
) -> Float[Tensor, "batch channel ..."]:
    """The autoencoder's mode in the transformer's units; (batch, channel, 1, rows, cols) for a video model.

    Args:
        vae: the autoencoder.
        pixels: in -1..1, on its device and in its dtype; of films with an axis of frames behind the channels.
        shifted: whether the pipeline subtracts the autoencoder's `shift_factor`.
    """
    encoded = vae.encode(as_film(pixels) if is_video(vae) else pixels)
    latents = encoded.latent if hasattr(encoded, "latent") else encoded.latent_dist.mode()
    return normalized(vae, latents, shifted=shifted)


def normalized(vae: Model, latents: Float[Tensor, "batch channel ..."], *, shifted: bool) -> Tensor:
    """An autoencoder's output in the transformer's units: by the statistics that it keeps, or shifted and scaled."""
    # LTX-Video keeps its statistics as buffers, Wan in its configuration.
    kept = {**vae.config, **dict(vae.named_buffers(recurse=False))}
    scaling = kept.get("scaling_factor") or 1.0
    mean, std = kept.get("latents_mean"), kept.get("latents_std")
    if mean is None or std is None:
        shift = kept.get("shift_factor") if shifted else None
        return (latents - (shift or 0.0)) * scaling
    axes = (1, -1, *(1,) * (latents.ndim - 2))
    mean, std = (torch.as_tensor(part).to(latents).view(axes) for part in (mean, std))
    return (latents - mean) / std * scaling
