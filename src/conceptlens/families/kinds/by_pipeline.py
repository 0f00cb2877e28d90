"""Text, noise and calls as the class's own pipeline makes them: nothing about them is written down a second time."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from conceptlens.families.base import Concepts, ModelAdapter
from conceptlens.families.kinds.first_call import concepts_of, prompt_call
from conceptlens.families.kinds.latents import as_film, clean_latents, is_flow, noised, timestep_of
from conceptlens.families.kinds.layouts import Layout
from conceptlens.families.kinds.reentry import ReentryAdapter
from conceptlens.values.models import Pipeline
from conceptlens.values.recipe import Recipe


class ByPipeline(ModelAdapter):
    """A family whose `layout` says what its pipeline's arguments mean."""

    layout: Layout

    def embed(self, pipeline: Pipeline, names: tuple[str, ...], recipe: Recipe, options: Mapping[str, Any]) -> Concepts:
        return concepts_of(pipeline, self.layout, names, recipe, options)

    def encode(self, pipeline: Pipeline, pixels: Tensor) -> Tensor:
        latents = clean_latents(pipeline.vae, pixels, shifted=True)
        return latents[:, :, 0] if latents.ndim > pixels.ndim else latents

    def add_noise(self, pipeline: Pipeline, clean: Tensor, noise: Tensor, sigma: float) -> Tensor:
        scheduler = pipeline.scheduler
        if is_flow(scheduler):
            return noised(scheduler, clean, noise, sigma)
        # As the scheduler itself rounds; `noised` agrees with it but for the last bit.
        return scheduler.add_noise(clean, noise, torch.full((len(clean),), int(timestep_of(scheduler, sigma))))

    def side_multiple(self, pipeline: Pipeline) -> int:
        return latent_side(pipeline) * self.layout.patch_side(pipeline.transformer.config)

    def prepare(
        self, pipeline: Pipeline, latents: Tensor, prompt: str, sigma: float, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        batch, channels, *frames, rows, cols = latents.shape
        patch, side = self.layout.patch_side(pipeline.transformer.config), self.side_multiple(pipeline)
        if hasattr(pipeline, "_pack_latents"):
            latents = pipeline._pack_latents(latents, batch, channels, rows, cols)
        known = inspect.signature(pipeline.__call__).parameters
        several = "num_images_per_prompt" if "num_images_per_prompt" in known else "num_videos_per_prompt"
        size = {"height": rows // patch * side, "width": cols // patch * side}
        count = 1 + (frames[0] - 1) * (self.frame_step(pipeline) or 1) if frames else 1
        video = {"num_frames": count, "latents": as_film(latents)} if "num_frames" in known else {}
        with one_noise_level(pipeline, sigma):
            call = prompt_call(pipeline, prompt, {**options, several: batch, **size, "latents": latents, **video})
        return self._prompts_rows(call.arguments, batch)

    def _prompts_rows(self, arguments: Mapping[str, Any], batch: int) -> dict[str, Any]:
        """The arguments without the rows of a negative prompt: some pipelines are guided by a scale of 1, too."""
        count = len(arguments[self.latents])
        if count == batch or not self.guided_batch:
            return dict(arguments)
        first = self.guided_batch.index("prompt") * batch
        rows = slice(first, first + batch)

        def own(value: Any) -> Any:  # noqa: ANN401 - any argument of a transformer
            batched = (torch.is_tensor(value) and value.ndim > 0) or isinstance(value, list)
            return value[rows] if batched and len(value) == count else value

        return {name: own(value) for name, value in arguments.items()}


class EnteredAdapter(ByPipeline, ReentryAdapter):
    """A class that is served by its own blocks and its own pipeline alone."""

    def embed(self, pipeline: Pipeline, names: tuple[str, ...], recipe: Recipe, options: Mapping[str, Any]) -> Concepts:
        self.check_pooled(recipe)
        return super().embed(pipeline, names, recipe, options)


def latent_side(pipeline: Pipeline) -> int:
    """Pixels of a latent's side, or whatever the pipeline says instead."""
    return getattr(pipeline, "vae_scale_factor", None) or pipeline.vae_scale_factor_spatial


@contextmanager
def one_noise_level(pipeline: Pipeline, sigma: float) -> Iterator[None]:
    """Inside it, a scheduler whose only step is at `sigma`, whatever the pipeline asks of it."""
    scheduler = pipeline.scheduler
    fixed = type(scheduler).from_config(scheduler.config)  # of the same type: some pipelines ask for it

    def set_timesteps(
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        sigmas: object = None,
        mu: object = None,
        timesteps: object = None,
    ) -> None:
        level = timestep_of(scheduler, sigma)
        fixed.num_inference_steps = 1
        fixed.timesteps = torch.tensor([level if is_flow(scheduler) else int(level)], device=device)
        fixed.sigmas = torch.tensor([sigma, 0.0])

    fixed.set_timesteps = set_timesteps
    pipeline.scheduler = fixed
    try:
        yield
    finally:
        pipeline.scheduler = scheduler
