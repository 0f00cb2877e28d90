"""`guide`: calls a pipeline as it is, and moves the latents between its steps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from conceptlens.errors import RecipeError
from conceptlens.guidance._capture import MapSink, StopForward, capturing, frozen
from conceptlens.guidance._losses import cosine_matrix, smooth
from conceptlens.guidance._pipeline import Conditioning, check_options, check_pipeline, prepare, refusals
from conceptlens.guidance._result import GuidedResult, GuidedStep
from conceptlens.guidance._text import at_least_float32
from conceptlens.guidance.base import Guidance


def guide(
    pipeline: Any,
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
        pipeline: a `StableDiffusionPipeline` (1.x, 2.x) or `StableDiffusionXLPipeline`.
        prompt: what to paint, or a list of it.
        guidance: the method and its settings.
        seed: of the starting noise, drawn on the CPU; the images of one call get `seed`, `seed + 1`, ..., so that each
            is the one that it would be alone. Or one seed for each image.
        **pipeline_options: of the pipeline's call: `num_inference_steps`, `guidance_scale`, `negative_prompt`, ...
            A `callback_on_step_end` runs before the latents are moved.

    Raises:
        ModelError: for a pipeline, scheduler (order 2, UniPC), IP-Adapter or ControlNet that guidance would be wrong
            with; when no cross-attention layer has the wanted size.
        RecipeError: for impossible settings, a prompt that is too long, or nothing in it for the method to compare.
    """
    check_pipeline(pipeline)
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    check_options(pipeline, prompts, pipeline_options)
    seeds = _seeds(seed, len(prompts) * (pipeline_options.get("num_images_per_prompt") or 1))
    call: dict[str, Any] = {**pipeline_options, "prompt": prompt if isinstance(prompt, str) else prompts}
    call["generator"] = _generators(seeds)
    # Latents made in inference mode could not take a gradient.
    with torch.inference_mode(False), refusals(pipeline):
        if not guidance.alpha or not tuple(guidance.steps):
            return GuidedResult(pipeline(**call).images, (), (), (), seeds, guidance.settings())
        first = _generators(seeds)
        start = prepare(pipeline, prompts, first if isinstance(first, list) else [first], pipeline_options)
        run = _Run(pipeline, guidance, start)
        if 0 in guidance.steps:
            # The pipeline multiplies given latents by this; its generators must stand after the draw.
            call["latents"] = run.update(0, start.latents) / pipeline.scheduler.init_noise_sigma
            call["generator"] = first
        names = call.pop("callback_on_step_end_tensor_inputs", ["latents"])
        user = call.get("callback_on_step_end")
        names = getattr(user, "tensor_inputs", names)

        def moved(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if user is not None:
                tensors = {**tensors, **user(pipe, step, timestep, tensors)}
            if step + 1 < pipe.num_timesteps and step + 1 in guidance.steps and not pipe.interrupt:
                tensors["latents"] = run.update(step + 1, tensors["latents"])
            return tensors

        call["callback_on_step_end"] = moved
        call["callback_on_step_end_tensor_inputs"] = list(dict.fromkeys([*names, "latents"]))
        images = pipeline(**call).images
    targets = tuple(guidance.target(text) for text in start.texts)
    return GuidedResult(images, tuple(run.steps), start.texts, targets, seeds, guidance.settings())


def _seeds(seed: int | Sequence[int], count: int) -> tuple[int, ...]:
    seeds = tuple(range(seed, seed + count)) if isinstance(seed, int) else tuple(seed)
    if len(seeds) != count or not all(-(2**63) <= s < 2**63 for s in seeds):
        raise RecipeError(f"seed must be one number of 64 bits, or one for each of {count} images; got {seed!r}.")
    return seeds


def _generators(seeds: Sequence[int]) -> torch.Generator | list[torch.Generator]:
    made = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return made if len(made) > 1 else made[0]


class _Run:
    """One guided call: the objectives of its images, and the record of its steps."""

    def __init__(self, pipeline: Any, guidance: Guidance, start: Conditioning) -> None:
        self.guidance, self.scheduler, self.texts = guidance, pipeline.scheduler, start.texts
        # A compiled U-Net is called as it was before: a forward that ends early is no graph.
        self.unet = getattr(pipeline.unet, "_orig_mod", pipeline.unet)
        self.arguments = start.arguments
        self.objectives = [guidance.objective(text) for text in start.texts]
        rows, cols = (math.ceil(n / 4) for n in start.latents.shape[-2:])
        # An early end would leave out what these do at the end of a forward.
        whole = (
            guidance.checkpointing
            or self.unet.is_gradient_checkpointing
            or hasattr(self.unet, "_hf_hook")
            or bool(start.arguments["cross_attention_kwargs"])
        )
        self.sink = MapSink(guidance.attention_size or (rows, cols), early_exit=not whole)
        self.before: Sequence[Tensor | None] = [None] * len(start.texts)
        self.steps: list[GuidedStep] = []
        self.warned = False

    def update(self, step: int, latents: Tensor) -> Tensor:
        """The latents of denoising step `step`, moved."""
        guidance, timestep = self.guidance, self.scheduler.timesteps[step]
        size = guidance.step_size(step, len(self.scheduler.timesteps))
        bound, moved, losses = guidance.bounds.get(step, -math.inf), latents, []
        found = self.gradient(moved, timestep)
        for _ in range(guidance.inner.get(step, 0)):
            unfinished = found[0] > bound
            if not unfinished.any():
                break
            losses.append(found[0].masked_fill(~unfinished, math.nan))
            moved = self.move(moved, found[1] * unfinished.view(-1, 1, 1, 1), size)
            found = self.gradient(moved, timestep)
        loss, gradient, maps = found
        losses.append(loss)
        moved = self.move(moved, gradient, size)
        self.record(step, torch.stack(losses), maps, (moved - latents).float().square().flatten(1).mean(1).sqrt())
        self.before = list(maps)
        return moved

    def gradient(self, latents: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From one forward with the prompt alone: each image's loss, dL/dz, and maps (image, key, rows, cols)."""
        guidance, sink = self.guidance, self.sink
        scale = guidance.grad_scale or (1024.0 if latents.dtype == torch.float16 else 1.0)
        sink.maps = {}
        with torch.enable_grad(), frozen(self.unet, checkpointing=guidance.checkpointing), capturing(self.unet, sink):
            leaf = latents.detach().clone().requires_grad_(True)
            try:
                scaled = self.scheduler.scale_model_input(leaf, timestep)
                self.unet.forward(scaled, timestep, **self.arguments, return_dict=False)
            except StopForward:
                pass
            maps = sink.mean()
            pairs = zip(self.objectives, maps, self.before, strict=True)
            loss = torch.stack([objective(own, before) for objective, own, before in pairs])
            (gradient,) = torch.autograd.grad(loss.sum() * scale, leaf)
        sink.maps = {}
        return loss.detach(), self.finite(at_least_float32(gradient) / scale), maps.detach()

    def finite(self, gradient: Tensor) -> Tensor:
        sound = gradient.isfinite().flatten(1).all(1)
        if not sound.all() and not self.warned:
            self.warned = True
            warnings.warn(
                "a gradient was not finite, so an image was not moved; try another grad_scale or float32.", stacklevel=4
            )
        return gradient.nan_to_num(0, 0, 0) * sound.view(-1, 1, 1, 1)

    def move(self, latents: Tensor, gradient: Tensor, size: float) -> Tensor:
        wide = at_least_float32(latents)
        if self.guidance.grad_norm == "rms":
            spread = gradient.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(torch.finfo(wide.dtype).tiny)
            gradient = gradient / spread * wide.square().mean((1, 2, 3), keepdim=True).sqrt()
        return (wide - size * gradient).to(latents.dtype)

    def record(self, step: int, losses: Tensor, maps: Tensor, moved: Tensor) -> None:
        kept, similar = [], []
        for text, own in zip(self.texts, maps, strict=True):
            places = self.guidance.similar_positions(text)
            chosen = torch.stack([own[list(p)].mean(0) for p in places])
            kept.append(chosen.float().cpu())
            similar.append(cosine_matrix(smooth(chosen)).float().cpu())
        self.steps.append(GuidedStep(step, losses.cpu(), tuple(similar), tuple(kept), moved.cpu()))
