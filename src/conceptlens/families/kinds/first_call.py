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

from conceptlens.families.base import Concepts, pool_tokens
from conceptlens.families.kinds.calls import named_arguments
from conceptlens.families.kinds.layouts import Layout
from conceptlens.families.kinds.tokens import EncodedText, OwnTokens, check_length, own_tokens
from conceptlens.values.errors import ConceptlensError, ModelError, one_line
from conceptlens.values.recipe import Recipe
from conceptlens.values.words import check_text

_DROPPED = ("prompt_template_encode_start_idx", "user_prompt_begin_id")
"""Where pipelines say how many leading tokens of their template the transformer never sees."""


_UNGUIDED = {"guidance_scale": 1.0, "true_cfg_scale": 1.0, "pag_scale": 0.0}
"""Without guidance, whatever a pipeline calls it."""


def _tells_text(name: str) -> bool:
    """Whether an option is another prompt, or the prompt once more: ready-made, or for a further encoder."""
    told = name.startswith("negative_") or name[-1].isdigit() or name.endswith(("embeds", "mask"))
    return "prompt" in name and told


class _HeardError(Exception):
    """Carries the arguments of the call out of the pipeline."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.arguments = arguments


def first_call(
    pipeline: Any, prompt: str, options: Mapping[str, Any], encoders: tuple[str, ...] = ("",)
) -> tuple[dict[str, Any], list[EncodedText]]:
    """Arguments of the transformer's first call for a prompt without guidance, and what its text encoders were given.

    Args:
        pipeline: with a transformer.
        prompt: the text.
        options: further keywords of the pipeline call.
        encoders: endings of the text encoders to listen to, as in text_encoder_2.

    Raises:
        ModelError: when the pipeline fails before that call, or lacks such a text encoder.
    """
    check_text(prompt, "prompt")
    transformer, given = pipeline.transformer, dict[str, dict[str, Any]]()
    read: dict[str, Any] = {ending: getattr(pipeline, f"text_encoder{ending}", None) for ending in encoders}
    if any(encoder is None for encoder in read.values()):
        raise ModelError(
            f"this {type(pipeline).__name__} has no text_encoder, so words cannot be read. Load it with its text "
            "encoders."
        )

    def hear(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _HeardError(named_arguments(module, args, kwargs))

    def watch(ending: str) -> Any:
        def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given.setdefault(ending, {**dict(zip(("input_ids", "attention_mask"), args, strict=False)), **kwargs})

        return keep

    known = inspect.signature(pipeline.__call__).parameters
    usual = {"num_inference_steps": 1, "generator": torch.Generator("cpu").manual_seed(0)}
    asked = {n: v for n, v in {**usual, **options, **_UNGUIDED}.items() if n in known and not _tells_text(n)}
    handles = [encoder.register_forward_pre_hook(watch(ending), with_kwargs=True) for ending, encoder in read.items()]
    handles.append(transformer.register_forward_pre_hook(hear, with_kwargs=True))
    try:
        with torch.no_grad():
            pipeline(prompt=prompt, **asked)
    except _HeardError as heard:
        silent = [type(read[ending]).__name__ for ending in encoders if "input_ids" not in given.get(ending, {})]
        if silent:
            raise ModelError(f"{silent[0]} was not run. Give the pipeline its own text encoder.") from None
        return heard.arguments, [encoded_text(given[e], tokenizer_of(pipeline, e)) for e in encoders]
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
    places = real.nonzero().flatten().tolist()
    # All from the first to the last: CLIP's padding is also its unknown mark, which may stand in the midst of a text.
    span = slice(places[0], places[-1] + 1) if places else slice(0)
    return EncodedText(ids, tuple(ids[span].tolist()), span.start or 0)


def concepts_of(
    pipeline: Any, layout: Layout, names: tuple[str, ...], recipe: Recipe, options: Mapping[str, Any]
) -> Concepts:
    """Concepts as text rows of the transformer, each read alone as if it were the prompt.

    Raises:
        ConceptError: for one that is too long or has no token.
    """
    kept = {name: value for name, value in options.items() if name not in ("num_images_per_prompt", "latents")}
    (_, empty), *calls = (first_call(pipeline, text, kept, layout.encoders) for text in ("", *names))
    tokens: list[Tensor] = []
    own: list[OwnTokens] = []
    ends: list[int] = []
    for name, (arguments, texts) in zip(names, calls, strict=True):
        parts = [rows[0] for rows in layout.encoded_rows(arguments)]
        if len(layout.encoders) == 1:
            parts = [torch.cat(parts, dim=-1)]
        found = [
            _own_rows(pipeline, ending, name, len(rows), text, nothing)
            for ending, rows, text, nothing in zip(layout.encoders, parts, texts, empty, strict=True)
        ]
        means = [
            pool_tokens(rows.flatten(1), kept.positions, recipe.pooling)
            for rows, kept in zip(parts, found, strict=True)
        ]
        tokens.append(torch.cat(means))
        own.append(found[0])
        ends.append(found[0].positions[-1])
    return Concepts(names, torch.stack(tokens), None, pieces=tuple(o.pieces for o in own), positions=tuple(ends))


def _own_rows(pipeline: Any, ending: str, name: str, rows: int, text: EncodedText, empty: EncodedText) -> OwnTokens:
    """A concept's own tokens by their text rows of the transformer."""
    tokenizer = tokenizer_of(pipeline, ending)
    check_length(tokenizer, name, rows)
    found = own_tokens(tokenizer, name, text, empty, rows)
    first = first_row(pipeline, rows, text)
    return OwnTokens(tuple(place - first for place in found.positions), found.pieces)


def first_row(pipeline: Any, rows: int, text: EncodedText) -> int:
    """The token, as the encoder counts them, that is the first text row of the transformer."""
    if rows == len(text.ids):
        return text.start
    told = next((getattr(pipeline, name) for name in _DROPPED if hasattr(pipeline, name)), None)
    return told if told is not None else max(0, len(text.states) - rows)


def tokenizer_of(pipeline: Any, ending: str = "") -> Any:
    """The tokenizer of a text encoder; a processor's own."""
    tokenizer = getattr(pipeline, f"tokenizer{ending}", None) or getattr(pipeline, f"processor{ending}")
    return getattr(tokenizer, "tokenizer", tokenizer)


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
    """Arguments of one transformer call on noised latents: the pipeline's first call at that noise level.

    Raises:
        ModelError: for a size that the model cannot take.
    """
    batch, channels, rows, cols = latents.shape
    patch, side = layout.patch_side(pipeline.transformer.config), side_of(pipeline, layout)
    if hasattr(pipeline, "_pack_latents"):
        latents = pipeline._pack_latents(latents, batch, channels, rows, cols)
    known = inspect.signature(pipeline.__call__).parameters
    several = "num_images_per_prompt" if "num_images_per_prompt" in known else "num_videos_per_prompt"
    height, width = rows // patch * side, cols // patch * side
    asked = {**options, several: batch}
    if not layout.one_area:
        asked |= {"height": height, "width": width, "latents": latents}
    if "num_frames" in known:
        asked |= {"num_frames": 1, "latents": latents[:, :, None]}
    with _one_noise_level(pipeline, sigma):
        arguments, _ = first_call(pipeline, prompt, asked)
    if layout.one_area:
        own = arguments[layout.latents]
        if latents[0].numel() > own[0].numel():
            most = own.shape[-2] * own.shape[-1] * (side // patch) ** 2
            raise ModelError(
                f"{layout.name} takes {most} pixels at most; got {width} x {height}. Ask for a smaller size."
            )
        arguments[layout.latents] = latents.to(own)
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
