"""What a pipeline would ask of its transformer first: it is run up to that call, which then does not happen.

So a prompt becomes the text rows, masks and vectors that the pipeline itself would make of it, whatever its encoders.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from conceptlens.families.base import Concepts
from conceptlens.families.kinds.calls import named_arguments
from conceptlens.families.kinds.layouts import Layout
from conceptlens.families.kinds.rows import pool_tokens
from conceptlens.families.kinds.tokens import EncodedText, OwnTokens, check_length, own_tokens
from conceptlens.values.early_exit import StopForward
from conceptlens.values.errors import ConceptlensError, ModelError, one_line
from conceptlens.values.models import Pipeline, Tokenizer
from conceptlens.values.recipe import Recipe
from conceptlens.values.words import check_text

_DROPPED = ("prompt_template_encode_start_idx", "user_prompt_begin_id")
"""Where pipelines say how many leading tokens of their template the transformer never sees."""
_UNGUIDED = {"guidance_scale": 1.0, "true_cfg_scale": 1.0, "pag_scale": 0.0}
"""Without guidance, whatever a pipeline calls it."""


@torch.no_grad()
def first_call(pipeline: Pipeline, options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments, by name, of the first call of a pipeline's transformer; the call itself does not happen.

    Whatever the pipeline does to timesteps, latents and texts is done by itself. Nothing is drawn as progress.

    Args:
        pipeline: with a transformer.
        options: all keywords of the pipeline call.

    Raises:
        ModelError: when the pipeline ends without such a call.
    """
    arguments: dict[str, Any] = {}

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments.update(named_arguments(module, args, kwargs))
        raise StopForward

    bar = getattr(pipeline, "_progress_bar_config", {})
    handle = pipeline.transformer.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        pipeline.set_progress_bar_config(**{**bar, "disable": True})
        with suppress(StopForward):
            pipeline(**options)
    finally:
        handle.remove()
        pipeline.set_progress_bar_config(**bar)
    if not arguments:
        raise ModelError(
            f"{type(pipeline).__name__} did not call its transformer. Give a text-to-image or -video pipeline."
        )
    return arguments


@dataclass(frozen=True)
class PromptCall:
    """A prompt on its way into the transformer.

    Attributes:
        arguments: of the transformer's call, by name.
        tokens: the prompt's tokens for each text encoder that was watched.
    """

    arguments: Mapping[str, Any]
    tokens: tuple[EncodedText, ...]


def prompt_call(
    pipeline: Pipeline, prompt: str, options: Mapping[str, Any], encoders: tuple[str, ...] = ("",)
) -> PromptCall:
    """What the pipeline would ask of its transformer for a prompt without guidance.

    Args:
        pipeline: with a transformer.
        prompt: the text.
        options: further keywords of the pipeline call; those that it does not know are left out.
        encoders: endings of the text encoders to watch, as in text_encoder_2.

    Raises:
        ModelError: when the pipeline fails before that call, or lacks such a text encoder.
    """
    check_text(prompt, "prompt")
    name = type(pipeline).__name__
    known = inspect.signature(pipeline.__call__).parameters
    usual = {"num_inference_steps": 1, "generator": torch.Generator("cpu").manual_seed(0)}
    call = {**usual, **options, **_UNGUIDED}
    call = {option: value for option, value in call.items() if option in known and not _is_text(option)}
    with _watched_encoders(pipeline, encoders) as inputs:
        try:
            arguments = first_call(pipeline, {"prompt": prompt, **call})
        except ConceptlensError:
            raise
        except (ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise ModelError(f"{name} cannot make a prompt of {prompt!r}: {one_line(error)}.") from error
    silent = [ending for ending in encoders if "input_ids" not in inputs.get(ending, {})]
    if silent:
        encoder = type(getattr(pipeline, f"text_encoder{silent[0]}")).__name__
        raise ModelError(f"{encoder} was not run. Give the pipeline its own text encoder.")
    tokens = (encoded_text(inputs[ending], tokenizer_of(pipeline, ending)) for ending in encoders)
    return PromptCall(arguments, tuple(tokens))


def _is_text(option: str) -> bool:
    """Whether an option is another prompt, or the prompt once more: ready-made, or for a further encoder."""
    another = option.startswith("negative_") or option[-1].isdigit() or option.endswith(("embeds", "mask"))
    return "prompt" in option and another


@contextmanager
def _watched_encoders(pipeline: Pipeline, encoders: tuple[str, ...]) -> Iterator[dict[str, dict[str, Any]]]:
    """Inside it, what each text encoder is given in its first call, by the ending of its name.

    Raises:
        ModelError: when the pipeline lacks one of them.
    """
    inputs: dict[str, dict[str, Any]] = {}
    modules = {ending: getattr(pipeline, f"text_encoder{ending}", None) for ending in encoders}

    def watch(ending: str, module: nn.Module) -> RemovableHandle:
        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            inputs.setdefault(ending, {**dict(zip(("input_ids", "attention_mask"), args, strict=False)), **kwargs})

        return module.register_forward_pre_hook(keep, with_kwargs=True)

    if any(module is None for module in modules.values()):
        raise ModelError(
            f"this {type(pipeline).__name__} has no text_encoder, so words cannot be read. Load it with its text "
            "encoders."
        )
    handles = [watch(ending, module) for ending, module in modules.items() if module is not None]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def encoded_text(given: Mapping[str, Int[Tensor, "batch token"] | None], tokenizer: Tokenizer) -> EncodedText:
    """The tokens of a text encoder's call, of the first text in it; `states` are all ids with their padding."""
    assert given["input_ids"] is not None
    ids, mask = given["input_ids"][0], given.get("attention_mask")
    pad = getattr(tokenizer, "pad_token_id", None)
    real = mask[0].bool() if mask is not None else ids != (-1 if pad is None else pad)
    places = real.nonzero().flatten().tolist()
    # All from the first to the last: CLIP's padding is also its unknown mark, which may stand in the midst of a text.
    span = slice(places[0], places[-1] + 1) if places else slice(0)
    return EncodedText(ids, tuple(ids[span].tolist()), span.start or 0)


def concepts_of(
    pipeline: Pipeline, layout: Layout, names: tuple[str, ...], recipe: Recipe, options: Mapping[str, Any]
) -> Concepts:
    """Concepts as text rows of the transformer, each read alone as if it were the prompt.

    Raises:
        ConceptError: for one that is too long or has no token.
    """
    options = {name: value for name, value in options.items() if name not in ("num_images_per_prompt", "latents")}
    empty, *calls = (prompt_call(pipeline, text, options, layout.encoders) for text in ("", *names))
    tokens: list[Tensor] = []
    found: list[OwnTokens] = []
    for name, call in zip(names, calls, strict=True):
        parts = [rows[0] for rows in layout.encoded_rows(call.arguments)]
        if len(layout.encoders) == 1:
            parts = [torch.cat(parts, dim=-1)]
        places = [
            _text_rows(pipeline, ending, name, len(rows), (text, nothing))
            for ending, rows, text, nothing in zip(layout.encoders, parts, call.tokens, empty.tokens, strict=True)
        ]
        means = [
            pool_tokens(rows.flatten(1), place.positions, recipe.pooling)
            for rows, place in zip(parts, places, strict=True)
        ]
        tokens.append(torch.cat(means))
        found.append(places[0])
    ends = tuple(own.positions[-1] for own in found)
    return Concepts(names, torch.stack(tokens), None, pieces=tuple(own.pieces for own in found), positions=ends)


def _text_rows(
    pipeline: Pipeline, ending: str, name: str, rows: int, texts: tuple[EncodedText, EncodedText]
) -> OwnTokens:
    """A concept's own tokens by their text rows of the transformer, out of its text and the empty one."""
    tokenizer = tokenizer_of(pipeline, ending)
    check_length(tokenizer, name, rows)
    found = own_tokens(tokenizer, name, *texts, rows)
    first = first_row(pipeline, rows, texts[0])
    return OwnTokens(tuple(place - first for place in found.positions), found.pieces)


def first_row(pipeline: Pipeline, rows: int, text: EncodedText) -> int:
    """The token, as the encoder counts them, that is the first text row of the transformer."""
    if rows == len(text.ids):
        return text.start
    dropped = next((getattr(pipeline, name) for name in _DROPPED if hasattr(pipeline, name)), None)
    return dropped if dropped is not None else max(0, len(text.states) - rows)


def tokenizer_of(pipeline: Pipeline, ending: str = "") -> Tokenizer:
    """The tokenizer of a text encoder; a processor's own."""
    tokenizer = getattr(pipeline, f"tokenizer{ending}", None) or getattr(pipeline, f"processor{ending}")
    return getattr(tokenizer, "tokenizer", tokenizer)
