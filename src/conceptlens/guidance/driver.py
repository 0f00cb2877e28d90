"""`guide`: calls a pipeline as it is, and moves the latents between its steps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conceptlens.guidance.base import Guidance, GuidedModel, Maps
from conceptlens.guidance.checks import check_options, check_pipeline, is_transformer
from conceptlens.guidance.result import GuidedResult, GuidedStep
from conceptlens.guidance.settings import whole
from conceptlens.guidance.transformers import GuidedTransformer
from conceptlens.guidance.unets import GuidedUnet
from conceptlens.ops.alignment import cosine_matrix, smooth
from conceptlens.readers.painting import refusals
from conceptlens.values.errors import RecipeError, shown
from conceptlens.values.models import Pipeline, Scheduler
from conceptlens.watch.prompt_text import at_least_float32
from conceptlens.watch.unet_attention import frozen


def guide(
    pipeline: Pipeline,
    prompt: str | Sequence[str],
    guidance: Guidance,
    *,
    seed: int | Sequence[int] = 0,
    **pipeline_options: Any,
) -> GuidedResult:
    """Generates images with guidance.

    The pipeline's own call runs unchanged: the first latents are moved before it, all others in its
    `callback_on_step_end`. With `alpha=0` or no steps the images are those of the plain call, bit for bit. Random
    numbers are used as in the plain call. With `PNDMScheduler` the move before step 1 is lost but for its effect on the
    predicted noise, because that scheduler repeats its first step; `DDIMScheduler` has no such gap.

    Args:
        pipeline: a `StableDiffusionPipeline` (1.x, 2.x) or `StableDiffusionXLPipeline`; with
            `TSAM(experimental=True)` also a `FluxPipeline` or `StableDiffusion3Pipeline`.
        prompt: what to paint, or a list of it. What is too long for a text encoder is cut off, with a warning.
        guidance: the method and its settings.
        seed: of the starting noise, drawn on the CPU; the images of one call get `seed`, `seed + 1`, ..., so that each
            is the one that it would be alone. Or one seed for each image.
        **pipeline_options: of the pipeline's call: `num_inference_steps`, `guidance_scale`, `negative_prompt`, ...
            A `callback_on_step_end` runs before the latents are moved.

    Raises:
        ModelError: for a pipeline, scheduler (order 2, UniPC), IP-Adapter or ControlNet that guidance would be wrong
            with; when no cross-attention layer has the wanted size.
        RecipeError: for impossible settings, or nothing in the prompt for the method to compare.
    """
    call = GuidedCall(pipeline, prompt, guidance, seed, pipeline_options)
    with torch.inference_mode(False), refusals(pipeline, "checkpointing=True"):
        images = pipeline(**call.arguments).images
    return call.result(images)


class GuidedCall:
    """One call of a pipeline, with guidance (or none) woven into its arguments; afterwards, ask it for `result`.

    Attributes:
        arguments: what to call the pipeline with, once.
        seeds: of each image.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        prompt: str | Sequence[str],
        guidance: Guidance | None,
        seed: int | Sequence[int],
        options: dict[str, Any],
    ) -> None:
        if guidance is not None:
            check_pipeline(pipeline, guidance)
        several = isinstance(prompt, Sequence) and not isinstance(prompt, str)
        prompts: list[Any] = list(prompt) if several else [prompt]
        check_options(pipeline, prompts, options)
        self.seeds = _seeds(seed, len(prompts) * (options.get("num_images_per_prompt") or 1))
        self.arguments: dict[str, Any] = {**options, "prompt": prompt if isinstance(prompt, str) else prompts}
        self.arguments["generator"] = _generators(self.seeds)
        self._settings, self._run = {} if guidance is None else guidance.settings(), None
        if guidance is None or not guidance.alpha or not tuple(guidance.steps):
            return
        # Latents made in inference mode could not take a gradient.
        with torch.inference_mode(False), refusals(pipeline, "checkpointing=True"):
            self._run = self._begin(pipeline, prompts, guidance, options)

    def _begin(self, pipeline: Pipeline, prompts: list[str], guidance: Guidance, options: dict[str, Any]) -> _Run:
        first = _generators(self.seeds)
        kind = GuidedTransformer if is_transformer(pipeline) else GuidedUnet
        drawn = first if isinstance(first, list) else [first]
        run = _Run(kind(pipeline, prompts, guidance, drawn, options), guidance, pipeline.scheduler)
        call = self.arguments
        if 0 in guidance.steps:
            # A diffusion pipeline multiplies given latents by this; its generators must stand after the draw.
            call["latents"] = run.update(0, run.model.latents) / getattr(pipeline.scheduler, "init_noise_sigma", 1.0)
            call["generator"] = first
        user = call.get("callback_on_step_end")
        names = call.pop("callback_on_step_end_tensor_inputs", None) or ["latents"]
        names = getattr(user, "tensor_inputs", names)

        def moved(pipe: Pipeline, step: int, timestep: object, tensors: dict[str, Any]) -> dict[str, Any]:
            if user is not None:
                tensors = {**tensors, **user(pipe, step, timestep, tensors)}
            if step + 1 < pipe.num_timesteps and step + 1 in guidance.steps and not pipe.interrupt:
                tensors["latents"] = run.update(step + 1, tensors["latents"])
            return tensors

        call["callback_on_step_end"] = moved
        call["callback_on_step_end_tensor_inputs"] = list(dict.fromkeys([*names, "latents"]))
        return run

    def result(self, images: list[Any] | np.ndarray | Tensor) -> GuidedResult:
        """What the call left behind, with the images that it made."""
        run = self._run
        if run is None:
            return GuidedResult(images, (), (), (), self.seeds, self._settings)
        texts = tuple(readings[0] for readings in run.model.texts)
        targets = tuple(run.guidance.target(text) for text in texts)
        return GuidedResult(images, tuple(run.steps), texts, targets, self.seeds, self._settings)


def _seeds(seed: int | Sequence[int], count: int) -> tuple[int, ...]:
    if isinstance(seed, Sequence):
        seeds = tuple(seed)
    else:
        seeds = tuple(int(seed) + n for n in range(count)) if whole(seed, -(2**63)) else ()
    if len(seeds) != count or not all(whole(s, -(2**63)) and s < 2**63 for s in seeds):
        raise RecipeError(f"seed must be one number of 64 bits, or one for each of {count} images; got {shown(seed)}.")
    return tuple(int(s) for s in seeds)


def _generators(seeds: Sequence[int]) -> torch.Generator | list[torch.Generator]:
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return generators if len(generators) > 1 else generators[0]


class _Run:
    """One guided call: the objectives of its images, and the record of its steps."""

    def __init__(self, model: GuidedModel, guidance: Guidance, scheduler: Scheduler) -> None:
        self.model, self.guidance, self.scheduler = model, guidance, scheduler
        self.objectives = [[guidance.objective(text) for text in readings] for readings in model.texts]
        self.before: Sequence[Maps | None] = [None] * len(model.texts)
        self.steps: list[GuidedStep] = []
        self.warned = False

    def update(self, step: int, latents: Tensor) -> Tensor:
        """The latents of denoising step `step`, moved."""
        guidance, timestep = self.guidance, self.scheduler.timesteps[step]
        size = guidance.step_size(step, len(self.scheduler.timesteps))
        bound, moved, losses = guidance.bounds.get(step, -math.inf), latents, []
        reading = self.gradient(moved, timestep)
        for _ in range(guidance.inner.get(step, 0)):
            unfinished = reading[0] > bound
            if not unfinished.any():
                break
            losses.append(reading[0].masked_fill(~unfinished, math.nan))
            moved = self.move(moved, reading[1] * _per_image(unfinished, moved), size)
            reading = self.gradient(moved, timestep)
        loss, gradient, maps = reading
        losses.append(loss)
        moved = self.move(moved, gradient, size)
        self.record(step, torch.stack(losses), maps, (moved - latents).float().square().flatten(1).mean(1).sqrt())
        self.before = maps
        return moved

    def gradient(self, latents: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor, list[Maps]]:
        """From one forward with the prompt alone: each image's loss, dL/dz, and maps (key, rows, cols)."""
        scale = self.guidance.grad_scale or (1024.0 if latents.dtype == torch.float16 else 1.0)
        weights = frozen(self.model.module, checkpointing=self.guidance.checkpointing)
        with torch.enable_grad(), weights, self.model.reading():
            leaf = latents.detach().clone().requires_grad_(True)
            maps = self.model.maps(leaf, timestep)
            pairs = zip(self.objectives, maps, self.before, strict=True)
            # One objective for each text encoder; all have the same weight.
            loss = torch.stack([torch.stack([o(own, before) for o in some]).mean() for some, own, before in pairs])
            (gradient,) = torch.autograd.grad(loss.sum() * scale, leaf)
        return loss.detach(), self.finite(at_least_float32(gradient) / scale), [own.detach() for own in maps]

    def finite(self, gradient: Tensor) -> Tensor:
        sound = gradient.isfinite().flatten(1).all(1)
        if not sound.all() and not self.warned:
            self.warned = True
            warnings.warn(
                "a gradient was not finite, so an image was not moved; try another grad_scale or float32.", stacklevel=4
            )
        return gradient.nan_to_num(0, 0, 0) * _per_image(sound, gradient)

    def move(self, latents: Tensor, gradient: Tensor, size: float) -> Tensor:
        wide = at_least_float32(latents)
        if self.guidance.grad_norm == "rms":
            # Squares of smaller ones underflow: such a gradient would be divided by far less than its size.
            spread = _per_image(_rms(gradient), gradient).clamp_min(torch.finfo(wide.dtype).tiny ** 0.5)
            gradient = gradient / spread * _per_image(_rms(wide), wide)
        return (wide - size * gradient).to(latents.dtype)

    def record(self, step: int, losses: Tensor, maps: Sequence[Maps], moved: Tensor) -> None:
        means, similar = [], []
        for (text, *_), own in zip(self.model.texts, maps, strict=True):
            places = self.guidance.similar_positions(text)
            chosen = torch.stack([own[list(p)].mean(0) for p in places])
            means.append(chosen.float().cpu())
            similar.append(cosine_matrix(smooth(chosen)).float().cpu())
        # A call that starts again (to record fewer steps) is reported once.
        self.steps = [before for before in self.steps if before.step < step]
        self.steps.append(GuidedStep(step, losses.cpu(), tuple(similar), tuple(means), moved.cpu()))


def _rms(tensor: Tensor) -> Tensor:
    """The root mean square of each image."""
    return tensor.square().flatten(1).mean(1).sqrt()


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))
