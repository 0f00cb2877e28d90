"""What guidance needs of a pipeline before it is called: is it fit, what does the prompt say, the first latents."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps
from torch import Tensor

from conceptlens.errors import ConceptlensError, ModelError, RecipeError, one_line
from conceptlens.guidance._text import PromptText, TextAttentionReader, read_prompt

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
OWN_OPTIONS = {
    "generator": "Give seed",
    "return_dict": "A GuidedResult is returned",
    "prompt_embeds": "Give the prompt as text",
    "pooled_prompt_embeds": "Give the prompt as text",
    "callback": "Give callback_on_step_end",
    "callback_steps": "Give callback_on_step_end",
}
# These compute a step's result from their own history in place of the latents that they are given.
REPLAYING = ("UniPCMultistepScheduler", "SASolverScheduler", "DPMSolverSinglestepScheduler")
GOOD = "Use DDIMScheduler, EulerDiscreteScheduler or DPMSolverMultistepScheduler"


@dataclass(frozen=True)
class Conditioning:
    """One run before its first step.

    Attributes:
        texts: the prompt of each image.
        arguments: of a U-Net call with the prompt alone, but for sample and timestep.
        latents: the first noise, at the scheduler's first level: (image, channel, rows, cols).
    """

    texts: tuple[PromptText, ...]
    arguments: Mapping[str, Any]
    latents: Tensor


def check_pipeline(pipeline: Any) -> None:
    """Raises a `ModelError` for a pipeline, scheduler or state in which guidance would be wrong."""
    name = type(pipeline).__name__
    if getattr(pipeline, "controlnet", None) is not None:
        raise ModelError(f"{name} has a ControlNet, whose residuals guidance cannot see. Use {' or '.join(PIPELINES)}.")
    if not {base.__name__ for base in type(pipeline).__mro__} & set(PIPELINES):
        raise ModelError(f"guidance works on {' and '.join(PIPELINES)}; got {name}.")
    unet, scheduler = pipeline.unet, pipeline.scheduler
    if getattr(unet, "encoder_hid_proj", None) is not None:
        raise ModelError("an IP-Adapter is loaded, whose image guidance cannot see. Call unload_ip_adapter() first.")
    if unet.config.time_cond_proj_dim is not None:
        raise ModelError("this U-Net takes the guidance scale as an input (LCM); guidance needs one that does not.")
    if any(getattr(getattr(m, "_hf_hook", None), "offload", False) is True for m in unet.modules()):
        raise ModelError("sequential offload drops weights before the backward pass. Use enable_model_cpu_offload().")
    kind = type(scheduler).__name__
    if getattr(scheduler, "order", 1) != 1:
        raise ModelError(f"{kind} is of order {scheduler.order}: it steps between noise levels. {GOOD}.")
    if kind == "PNDMScheduler" and not scheduler.config.skip_prk_steps:
        raise ModelError(f"PNDMScheduler with Runge-Kutta steps goes between noise levels. Set skip_prk_steps. {GOOD}.")
    if kind in REPLAYING:
        raise ModelError(f"{kind} computes steps from its own history, which guidance does not change. {GOOD}.")


def check_options(pipeline: Any, prompts: Sequence[str], options: Mapping[str, Any]) -> None:
    """Raises a `RecipeError` for a prompt or an option that guidance cannot follow."""
    if not prompts or not all(isinstance(p, str) and p.strip() for p in prompts):
        raise RecipeError(f"the prompt must be a text or a list of texts; got {list(prompts)!r}. Say what to paint.")
    for name, instead in OWN_OPTIONS.items():
        if name in options:
            raise RecipeError(f"{name} cannot be given to guide. {instead}.")
    known = set(inspect.signature(pipeline.__call__).parameters) - {"args", "kwargs", "self", "prompt"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise RecipeError(f"{type(pipeline).__name__} has no option {unknown[0]!r}.")
    for name in ("ip_adapter_image", "ip_adapter_image_embeds"):
        if options.get(name) is not None:
            raise ModelError(f"{name} was given, but guidance cannot see an IP-Adapter's image. Leave it out.")
    second = options.get("prompt_2")
    if second is not None and ([second] if isinstance(second, str) else list(second)) != list(prompts):
        raise RecipeError("prompt_2 differs from prompt; T-SAM reads one text with both encoders. Leave prompt_2 out.")


@contextmanager
def refusals(pipeline: Any) -> Iterator[None]:
    """Errors of the pipeline's own checks as one clear line."""
    try:
        yield
    except ConceptlensError:
        raise
    except torch.OutOfMemoryError as error:
        raise ModelError(f"{one_line(error)}. Use checkpointing=True, a smaller picture, or fewer at once.") from error
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise RecipeError(f"{type(pipeline).__name__} refused its settings: {one_line(error)}.") from error


@torch.no_grad()
def prepare(
    pipeline: Any, prompts: list[str], generators: list[torch.Generator], options: Mapping[str, Any]
) -> Conditioning:
    """Encodes, sets the timesteps, and draws the first latents, each as the pipeline itself will."""
    device = pipeline._execution_device
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
        ids = pipeline._get_add_time_ids(
            options.get("original_size") or (height, width),
            options.get("crops_coords_top_left", (0, 0)),
            options.get("target_size") or (height, width),
            dtype=embeds.dtype,
            text_encoder_projection_dim=pooled.shape[-1],
        )
        arguments["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids.to(device).repeat(len(pooled), 1)}
    return Conditioning(tuple(t for t in texts for _ in range(per_prompt)), arguments, latents)


def image_size(pipeline: Any, options: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width in pixels, as the pipeline reads its options."""
    sample, factor = pipeline.unet.config.sample_size, pipeline.vae_scale_factor
    rows, cols = (sample, sample) if isinstance(sample, int) else sample
    height, width = options.get("height"), options.get("width")
    if hasattr(pipeline, "text_encoder_2"):
        return height or rows * factor, width or cols * factor
    return (height, width) if height and width else (rows * factor, cols * factor)


def _encode(
    pipeline: Any, prompts: list[str], options: Mapping[str, Any], device: torch.device
) -> tuple[list[PromptText], Tensor, Tensor | None]:
    second = hasattr(pipeline, "text_encoder_2")
    suffixes = ("", "_2") if second else ("",)
    parts = [(getattr(pipeline, f"tokenizer{s}"), getattr(pipeline, f"text_encoder{s}")) for s in suffixes]
    parts = [(tokenizer, encoder) for tokenizer, encoder in parts if encoder is not None]
    for tokenizer, _ in parts:
        _check_length(pipeline, tokenizer, prompts)
    skip = options.get("clip_skip")
    with ExitStack() as stack:
        readers = [stack.enter_context(TextAttentionReader(encoder)) for _, encoder in parts]
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
        read_prompt(prompt, parts[0][0], row, [a[n] for a in attentions], (skip or 0) + second)
        for n, (prompt, row) in enumerate(zip(prompts, ids, strict=True))
    ]
    return texts, embeds, pooled[0] if pooled else None


def _check_length(pipeline: Any, tokenizer: Any, prompts: list[str]) -> None:
    for prompt in prompts:
        longest = tokenizer.model_max_length
        count = len(tokenizer(pipeline.maybe_convert_prompt(prompt, tokenizer), verbose=False).input_ids)
        if count > longest:
            raise RecipeError(
                f"the prompt {prompt[:40] + '...'!r} has {count} tokens, begin and end included; the text encoder "
                f"reads {longest}. Shorten it."
            )
