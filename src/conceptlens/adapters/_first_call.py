"""What a pipeline would ask of its transformer first: it is run up to that call, which then does not happen.

So a prompt becomes the text rows, masks and vectors that the pipeline itself would make of it, whatever its encoders.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from conceptlens.adapters._layouts import Layout
from conceptlens.adapters._tokens import EncodedText, OwnTokens, check_length, own_tokens
from conceptlens.adapters.base import Concepts, pool_tokens
from conceptlens.errors import ConceptlensError, ModelError, one_line
from conceptlens.recipe import Recipe

_DROPPED = ("prompt_template_encode_start_idx", "user_prompt_begin_id")
"""Where pipelines say how many leading tokens of their template the transformer never sees."""


class _HeardError(Exception):
    """Carries the arguments of the call out of the pipeline."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.arguments = arguments


def first_call(pipeline: Any, prompt: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], EncodedText]:
    """Arguments of the transformer's first call for a prompt without guidance, and what its text encoder was given.

    Raises:
        ModelError: when the pipeline fails before that call, or has no text encoder.
    """
    transformer, encoder = pipeline.transformer, getattr(pipeline, "text_encoder", None)
    if encoder is None:
        raise ModelError("this pipeline has no text encoder, so words cannot be read. Load it with its text_encoder.")
    given: dict[str, Any] = {}

    def hear(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _HeardError(dict(inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments))

    def watch(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not given:
            given.update(zip(("input_ids", "attention_mask"), args, strict=False), **kwargs)

    known = inspect.signature(pipeline.__call__).parameters
    usual = {"num_inference_steps": 1, "guidance_scale": 1.0, "generator": torch.Generator("cpu").manual_seed(0)}
    asked = {n: v for n, v in {**usual, **options, "guidance_scale": 1.0}.items() if n in known}
    asked.pop("negative_prompt", None)
    handles = [
        transformer.register_forward_pre_hook(hear, with_kwargs=True),
        encoder.register_forward_pre_hook(watch, with_kwargs=True),
    ]
    try:
        with torch.no_grad():
            pipeline(prompt=prompt, **asked)
    except _HeardError as heard:
        if "input_ids" not in given:
            raise ModelError(f"{type(encoder).__name__} was not run. Give the pipeline its own text encoder.") from None
        return heard.arguments, encoded_text(given, _tokenizer(pipeline))
    except ConceptlensError:
        raise
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ModelError(f"{type(pipeline).__name__} cannot make a prompt of {prompt!r}: {one_line(error)}.") from error
    finally:
        for handle in handles:
            handle.remove()
    raise ModelError(
        f"{type(pipeline).__name__} did not call its transformer. Give a text-to-image or -video pipeline."
    )


def encoded_text(given: Mapping[str, Any], tokenizer: Any) -> EncodedText:
    """The tokens of a text encoder's call, of the first text in it; `states` are all ids with their padding."""
    ids, mask = given["input_ids"][0], given.get("attention_mask")
    pad = getattr(tokenizer, "pad_token_id", None)
    real = mask[0].bool() if mask is not None else ids != (-1 if pad is None else pad)
    start = int(real.nonzero()[0]) if real.any() else 0
    return EncodedText(ids, tuple(ids[real].tolist()), start)


def concepts_of(
    pipeline: Any, layout: Layout, names: tuple[str, ...], recipe: Recipe, options: Mapping[str, Any]
) -> Concepts:
    """Concepts as text rows of the transformer, each read alone as if it were the prompt.

    Raises:
        ConceptError: for one that is too long or has no token.
    """
    kept = {name: value for name, value in options.items() if name not in ("num_images_per_prompt", "latents")}
    (_, empty), *calls = (first_call(pipeline, text, kept) for text in ("", *names))
    tokens: list[Tensor] = []
    own: list[OwnTokens] = []
    ends: list[int] = []
    for name, (arguments, text) in zip(names, calls, strict=True):
        rows = layout.text_rows(arguments)[0]
        check_length(_tokenizer(pipeline), name, len(rows))
        found = own_tokens(_tokenizer(pipeline), name, text, empty, len(rows))
        first = first_row(pipeline, len(rows), text)
        places = [place - first for place in found.positions]
        tokens.append(pool_tokens(rows.flatten(1), places, recipe.pooling))
        own.append(found)
        ends.append(places[-1])
    pooled = None
    if recipe.pooled == "zeros" and layout.pooled is not None:
        pooled = torch.zeros_like(calls[0][0][layout.pooled][0])
    return Concepts(names, torch.stack(tokens), pooled, pieces=tuple(o.pieces for o in own), positions=tuple(ends))


def first_row(pipeline: Any, rows: int, text: EncodedText) -> int:
    """The token, as the encoder counts them, that is the first text row of the transformer."""
    if rows == len(text.ids):
        return text.start
    told = next((getattr(pipeline, name) for name in _DROPPED if hasattr(pipeline, name)), None)
    return told if told is not None else max(0, len(text.states) - rows)


def _tokenizer(pipeline: Any) -> Any:
    return getattr(pipeline.tokenizer, "tokenizer", pipeline.tokenizer)


def clean_latents(pipeline: Any, pixels: Tensor) -> Tensor:
    """The autoencoder's mode in the transformer's units, (batch, channel, rows, cols), of image and video models."""
    vae, video = (
        pipeline.vae,
        "3d" in type(pipeline.vae.encoder).__name__.lower() or not hasattr(pipeline, "image_processor"),
    )
    latents = vae.encode(pixels[:, :, None] if video else pixels).latent_dist.mode()
    latents = latents[:, :, 0] if latents.ndim == 5 else latents
    return (latents - (getattr(vae.config, "shift_factor", None) or 0.0)) * vae.config.scaling_factor


def noised_latents(pipeline: Any, clean: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """Latents at a noise level in 0..1: on the straight path, or along the training timesteps of older schedulers."""
    if "FlowMatch" in type(pipeline.scheduler).__name__:
        return torch.lerp(clean, noise, sigma)
    last = pipeline.scheduler.config.num_train_timesteps - 1
    return pipeline.scheduler.add_noise(clean, noise, torch.full((len(clean),), round(sigma * last)))


def side_of(pipeline: Any, layout: Layout) -> int:
    """Pixels of a token's side."""
    scale = getattr(pipeline, "vae_scale_factor", None) or pipeline.vae_scale_factor_spatial
    return scale * (1 if layout.counted else layout.patch_side(pipeline.transformer.config))


def noised_call(
    pipeline: Any, layout: Layout, latents: Tensor, prompt: str, sigma: float, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments of one transformer call on noised latents: the pipeline's first call at that noise level."""
    batch, channels, rows, cols = latents.shape
    patch, side = layout.patch_side(pipeline.transformer.config), side_of(pipeline, layout)
    if hasattr(pipeline, "_pack_latents"):
        latents = pipeline._pack_latents(latents, batch, channels, rows, cols)
    known = inspect.signature(pipeline.__call__).parameters
    several = "num_images_per_prompt" if "num_images_per_prompt" in known else "num_videos_per_prompt"
    asked = {
        **options,
        "height": rows // patch * side,
        "width": cols // patch * side,
        several: batch,
        "latents": latents,
    }
    if "num_frames" in known:
        asked |= {"num_frames": 1, "latents": latents[:, :, None]}
    with _one_noise_level(pipeline, sigma):
        arguments, _ = first_call(pipeline, prompt, asked)
    arguments.pop("self")
    return arguments


@contextmanager
def _one_noise_level(pipeline: Any, sigma: float) -> Iterator[None]:
    """A scheduler whose only step is at `sigma`, whatever the pipeline asks of it."""
    scheduler = pipeline.scheduler
    steps, flow = scheduler.config.num_train_timesteps, "FlowMatch" in type(scheduler).__name__
    fixed = type(scheduler).from_config(scheduler.config)  # of the same type: some pipelines ask for it

    def set_timesteps(
        num_inference_steps: Any = None,
        device: Any = None,
        sigmas: Any = None,
        mu: Any = None,
        timesteps: Any = None,
    ) -> None:
        level = sigma * steps if flow else round(sigma * (steps - 1))
        fixed.num_inference_steps = 1
        fixed.timesteps = torch.tensor([level], device=device)
        fixed.sigmas = torch.tensor([sigma, 0.0])

    fixed.set_timesteps = set_timesteps
    pipeline.scheduler = fixed
    try:
        yield
    finally:
        pipeline.scheduler = scheduler
