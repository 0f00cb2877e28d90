"""Paintings whose latents are known after each step, and paintings in which rows of another take their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from conceptlens.readers.painting import refusals
from conceptlens.session import Session
from conceptlens.values.errors import ModelError
from conceptlens.values.models import Pipeline


@dataclass(frozen=True)
class Painting:
    """One picture on its way.

    Attributes:
        prompt: that it was painted from.
        seed: of its noise, drawn on the CPU.
        image: the finished picture.
        latents: after each denoising step, (1, ...) each, as the pipeline holds them.
    """

    prompt: str
    seed: int
    image: Image.Image
    latents: tuple[Tensor, ...]


def latents_kept(latents: list[Tensor]) -> Any:  # noqa: ANN401 - a callback of diffusers
    """A callback for `callback_on_step_end` that appends the latents of each step and changes nothing."""

    def after(_pipeline: Pipeline, _step: int, _timestep: object, tensors: dict[str, Any]) -> dict[str, Any]:
        latents.append(tensors["latents"].detach().clone())
        return {}

    return after


def paint(session: Session, prompt: str, seed: int, call: Mapping[str, Any]) -> Painting:
    """A picture as the pipeline paints it, bit for bit, with its latents."""
    latents: list[Tensor] = []
    image = _painted(session, prompt, seed, 1, {**call, "callback_on_step_end": latents_kept(latents)})[0]
    return Painting(prompt, seed, image, tuple(latents))


def repaint(
    session: Session,
    painting: Painting,
    other: Painting,
    regions: Bool[Tensor, "region rows cols"],
    call: Mapping[str, Any],
    *,
    first_step: int,
) -> list[Image.Image]:
    """The painting once more for each region, with the rows of `other` inside the region from a step on.

    The prompt and the noise stay those of `painting`: only what the model sees of the picture changes.

    Args:
        session: the model that painted both.
        painting: that is repeated.
        other: from the same noise.
        regions: of the latents' patches; True where rows are replaced.
        call: keywords of the pipeline's call.
        first_step: the first denoising step, from 0, after which rows are replaced; all later ones follow.

    Raises:
        ModelError: for latents that have no rows of an image.
    """

    def after(_pipeline: Pipeline, step: int, _timestep: object, tensors: dict[str, Any]) -> dict[str, Any]:
        if step < first_step:
            return {}
        latents = tensors["latents"]
        return {"latents": torch.where(spread(regions, latents), other.latents[step].to(latents), latents)}

    spread(regions, painting.latents[0])  # refused before anything is painted
    options = {**call, "callback_on_step_end": after}
    return _painted(session, painting.prompt, painting.seed, len(regions), options)


def spread(regions: Bool[Tensor, "region rows cols"], latents: Tensor) -> Bool[Tensor, "region ..."]:
    """Regions in the shape of latents: packed, (batch, rows * cols, dim), or an image, (batch, channel, height, width).

    Raises:
        ModelError: for latents of another shape.
    """
    rows, cols = regions.shape[1:]
    if latents.ndim == 3 and latents.shape[1] == rows * cols:
        return regions.flatten(1)[..., None].to(latents.device)
    if latents.ndim == 4:
        size = (int(latents.shape[2]), int(latents.shape[3]))
        return F.interpolate(regions[:, None].float(), size, mode="nearest").bool().to(latents.device)
    raise ModelError(
        f"latents of shape {tuple(latents.shape)} have no {rows} x {cols} rows of a picture to replace. Use a model "
        "that paints single pictures."
    )


def _painted(session: Session, prompt: str, seed: int, count: int, options: Mapping[str, Any]) -> list[Image.Image]:
    """Pictures of one prompt and one noise."""
    generators = [torch.Generator("cpu").manual_seed(seed) for _ in range(count)]
    call = {**session.generate_defaults, "num_images_per_prompt": count, **options}
    with refusals(session.pipeline, "another device"), torch.inference_mode():
        return list(session.pipeline(prompt=prompt, generator=generators, **call).images)
