"""Which tokens of an encoded concept are its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from conceptlens.adapters.base import Concepts, pool_tokens
from conceptlens.errors import ConceptError, ModelError
from conceptlens.recipe import Pooling


@dataclass(frozen=True)
class OwnTokens:
    """Positions and pieces of a concept's tokens, specials and padding left out."""

    positions: tuple[int, ...]
    pieces: tuple[str, ...]


def concept_ids(tokenizer: Any, name: str, length: int, encoder: str) -> OwnTokens:
    """The tokens of one concept.

    Raises:
        ConceptError: when the concept is longer than the encoder reads, or has no token at all.
    """
    ids = tokenizer(name, truncation=False).input_ids
    if len(ids) > length:
        raise ConceptError(
            f"concept {_shorten(name)!r} has {len(ids)} tokens with the {encoder} tokenizer; it reads {length}. "
            "Use fewer words."
        )
    special = set(tokenizer.all_special_ids)
    positions = tuple(i for i, token in enumerate(ids) if token not in special)
    if not positions:
        raise ConceptError(f"concept {name!r} has no token that the {encoder} tokenizer knows. Use another word.")
    return OwnTokens(positions, tuple(tokenizer.convert_ids_to_tokens([ids[i] for i in positions])))


def _shorten(name: str) -> str:
    return name if len(name) <= 40 else name[:37] + "..."


def embed_alone(
    tokenizer: Any, encode: Callable[[str], Tensor], names: tuple[str, ...], length: int, pooling: Pooling
) -> Concepts:
    """Concepts of a T5 that reads each name by itself: its states (length, dim), pooled over the name's own tokens."""
    own = [concept_ids(tokenizer, name, length, "T5") for name in names]
    tokens = [pool_tokens(encode(name), kept.positions, pooling) for name, kept in zip(names, own, strict=True)]
    return Concepts(names, torch.stack(tokens), None, pieces=tuple(kept.pieces for kept in own))


@dataclass(frozen=True)
class EncodedText:
    """A text as a language model read it.

    Attributes:
        states: what the pipeline makes of it, (length, dim).
        ids: the real tokens, padding left out.
        start: the position of the first real token.
    """

    states: Tensor
    ids: tuple[int, ...]
    start: int


def encode_watched(encoder: Any, encode: Callable[[str], Tensor], text: str) -> EncodedText:
    """Encodes a text with `encode` and tells which tokens the `encoder` was given, whatever template they stood in.

    Raises:
        ModelError: when the encoder was not called as a module.
    """
    given: dict[str, Any] = {}

    def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.update(zip(("input_ids", "attention_mask"), args, strict=False), **kwargs)

    handle = encoder.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        states = encode(text)
    finally:
        handle.remove()
    if "input_ids" not in given:
        raise ModelError(f"{type(encoder).__name__} was not run for {text!r}. Give the pipeline its own text encoder.")
    ids, mask = given["input_ids"][0], given.get("attention_mask")
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask[0].bool()
    start = int(real.nonzero()[0]) if real.any() else 0
    return EncodedText(states, tuple(ids[real].tolist()), start)


def own_tokens(tokenizer: Any, name: str, text: EncodedText, empty: EncodedText, length: int) -> OwnTokens:
    """The tokens of a concept inside a chat template: what differs from the template around an empty text.

    Raises:
        ConceptError: when the concept is longer than the encoder reads, or has no token at all.
    """
    before, after = _template(text, empty)
    if before + after < len(empty.ids):
        raise _too_long(name, length)
    return _own(tokenizer, name, text, _between(tokenizer, text, before, after))


def tokens_between(tokenizer: Any, name: str, text: EncodedText, empty: EncodedText, length: int) -> OwnTokens:
    """As `own_tokens`, for templates that end in a space, which melts into the concept's first token.

    Raises:
        ConceptError: when the concept is longer than the encoder reads, or has no token at all.
    """
    check_length(tokenizer, name, length)
    kept = _between(tokenizer, text, *_template(text, empty))
    alone = tokenizer(name, add_special_tokens=False, truncation=False).input_ids
    if len(text.ids) == len(text.states) and len(kept) < len(alone):
        raise _too_long(name, length)
    return _own(tokenizer, name, text, kept)


def _template(text: EncodedText, empty: EncodedText) -> tuple[int, int]:
    """How many tokens in front of a text, and behind it, are those of the template around an empty one."""
    before = _common(text.ids, empty.ids)
    return before, _common(text.ids[before:][::-1], empty.ids[before:][::-1])


def _between(tokenizer: Any, text: EncodedText, before: int, after: int) -> tuple[int, ...]:
    """The tokens between a template's first ones and its last, specials left out."""
    special = set(tokenizer.all_special_ids)
    return tuple(i for i in range(before, len(text.ids) - after) if text.ids[i] not in special)


def _own(tokenizer: Any, name: str, text: EncodedText, kept: tuple[int, ...]) -> OwnTokens:
    """Some tokens of a text as a concept's own. Raises `ConceptError` for none."""
    if not kept:
        raise ConceptError(f"concept {name!r} has no token that the model's tokenizer knows. Use another word.")
    pieces = tuple(tokenizer.convert_ids_to_tokens([text.ids[i] for i in kept]))
    return OwnTokens(tuple(text.start + i for i in kept), pieces)


def check_length(tokenizer: Any, name: str, length: int) -> None:
    """Refuses a concept that alone has more tokens than there is room for. Raises `ConceptError`."""
    if len(tokenizer(name, truncation=False).input_ids) > length:
        raise _too_long(name, length)


def _too_long(name: str, length: int) -> ConceptError:
    return ConceptError(f"concept {_shorten(name)!r} does not fit in {length} tokens. Use fewer words.")


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many leading tokens are the same."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
