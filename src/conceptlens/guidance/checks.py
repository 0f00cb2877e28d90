"""Is a pipeline, its scheduler and the options of a call fit for guidance?"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from conceptlens.families import prompt_encoders
from conceptlens.guidance.base import Guidance
from conceptlens.guidance.settings import whole
from conceptlens.readers.call_settings import check_call
from conceptlens.values.errors import ModelError, RecipeError, shown
from conceptlens.values.models import Model, Pipeline, Scheduler

UNETS = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
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
DIFFUSION = "DDIMScheduler, EulerDiscreteScheduler or DPMSolverMultistepScheduler"
FLOW = "FlowMatchEulerDiscreteScheduler"


def check_pipeline(pipeline: Pipeline, guidance: Guidance) -> None:
    """Raises a `ModelError` for a pipeline, scheduler or state in which guidance would be wrong."""
    name = type(pipeline).__name__
    if getattr(pipeline, "controlnet", None) is not None:
        raise ModelError(f"{name} has a ControlNet, whose residuals guidance cannot see. Use {' or '.join(UNETS)}.")
    kinds, transformers = {base.__name__ for base in type(pipeline).__mro__}, tuple(prompt_encoders())
    if not kinds & {*UNETS, *transformers}:
        raise ModelError(
            f"guidance works on {', '.join(UNETS)} and, as an experiment, {', '.join(transformers)}; got {name}."
        )
    if is_transformer(pipeline):
        _check_experiment(name, guidance)
    _check_additions(pipeline)
    _check_memory(pipeline)
    _check_scheduler(pipeline.scheduler, FLOW if is_transformer(pipeline) else DIFFUSION)


def _check_experiment(name: str, guidance: Guidance) -> None:
    """Refuses what a guidance cannot do on a transformer, and what nobody asked for as an experiment."""
    if not guidance.reads_transformers:
        raise ModelError(f"{guidance.name} reads the cross-attention of U-Nets; {name} has none. Use T-SAM.")
    if not guidance.experimental:
        raise ModelError(
            f"guidance of a diffusion transformer ({name}) is an experiment without published settings. "
            "Say experimental=True (--set guide.experimental=true) to try it."
        )
    if guidance.attention_size is not None:
        raise ModelError(f"attention_size is of U-Nets; {name} reads blocks of one size. Use blocks=.")


def _check_additions(pipeline: Pipeline) -> None:
    """Refuses what adds to the image model's input out of guidance's sight."""
    model = _image_model(pipeline)
    if getattr(model, "encoder_hid_proj", None) is not None or getattr(pipeline, "is_ip_adapter_active", False):
        raise ModelError("an IP-Adapter is loaded, whose image guidance cannot see. Call unload_ip_adapter() first.")
    if getattr(model.config, "time_cond_proj_dim", None) is not None:
        raise ModelError("this U-Net takes the guidance scale as an input (LCM); guidance needs one that does not.")


def _check_memory(pipeline: Pipeline) -> None:
    """Refuses what takes away weights that the backward pass needs, or skips blocks that are read."""
    model = _image_model(pipeline)
    if any(getattr(getattr(m, "_hf_hook", None), "offload", False) is True for m in model.modules()):
        raise ModelError("sequential offload drops weights before the backward pass. Use enable_model_cpu_offload().")
    if getattr(model, "is_cache_enabled", False):
        raise ModelError(
            "a step cache is on, which skips blocks that are read. Call pipeline.transformer.disable_cache()."
        )
    hooks = {name for m in model.modules() for name in getattr(getattr(m, "_diffusers_hook", None), "hooks", ())}
    moved = sorted(hooks & {"group_offloading", *(() if is_transformer(pipeline) else ("layerwise_casting",))})
    if moved:
        raise ModelError(
            f"{moved[0].replace('_', ' ')} takes weights away before the backward pass. "
            "Use enable_model_cpu_offload(), or a lower precision."
        )


def _image_model(pipeline: Pipeline) -> Model:
    return pipeline.transformer if is_transformer(pipeline) else pipeline.unet


def is_transformer(pipeline: Pipeline) -> bool:
    """Whether a pipeline's image model is a diffusion transformer, not a U-Net."""
    return getattr(pipeline, "transformer", None) is not None


def _check_scheduler(scheduler: Scheduler, good: str) -> None:
    kind = type(scheduler).__name__
    if getattr(scheduler, "order", 1) != 1:
        raise ModelError(f"{kind} is of order {scheduler.order}: it steps between noise levels. Use {good}.")
    if kind == "PNDMScheduler" and not scheduler.config.skip_prk_steps:
        raise ModelError(
            f"PNDMScheduler with Runge-Kutta steps goes between noise levels. Set skip_prk_steps. Use {good}."
        )
    if kind in REPLAYING:
        raise ModelError(f"{kind} computes steps from its own history, which guidance does not change. Use {good}.")


def check_options(pipeline: Pipeline, prompts: Sequence[str], options: Mapping[str, Any]) -> None:
    """Raises a `RecipeError` for a prompt or an option that guidance cannot follow."""
    if not prompts or not all(isinstance(p, str) and p.strip() for p in prompts):
        raise RecipeError(f"the prompt must be a text or a list of texts; got {shown(prompts)}. Say what to paint.")
    images = options.get("num_images_per_prompt")
    if images is not None and not whole(images, 1):
        raise RecipeError(f"num_images_per_prompt must be a whole number from 1; got {shown(images)}.")
    _check_names(pipeline, options)
    for name in ("ip_adapter_image", "ip_adapter_image_embeds"):
        if options.get(name) is not None:
            raise ModelError(f"{name} was given, but guidance cannot see an IP-Adapter's image. Leave it out.")
    for name in ("prompt_2", "prompt_3"):
        other = options.get(name)
        if other is not None and ([other] if isinstance(other, str) else list(other)) != list(prompts):
            raise RecipeError(f"{name} differs from prompt; T-SAM reads one text with all encoders. Leave {name} out.")
    check_call(pipeline, options)


def _check_names(pipeline: Pipeline, options: Mapping[str, Any]) -> None:
    """Refuses options that guidance sets itself, and those that the pipeline does not know."""
    for name, instead in OWN_OPTIONS.items():
        if name in options:
            raise RecipeError(f"{name} cannot be given to guide. {instead}.")
    known = set(inspect.signature(pipeline.__call__).parameters) - {"args", "kwargs", "self", "prompt"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise RecipeError(f"{type(pipeline).__name__} has no option {unknown[0]!r}. Drop it.")
