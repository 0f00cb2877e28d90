"""Which tokens of an encoded text are a concept's own, and which of its letters have none."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from conceptlens.families.base import Concepts
from conceptlens.families.kinds.rows import pool_tokens
from conceptlens.values.errors import ConceptError, ModelError
from conceptlens.values.models import Model, Tokenizer
from conceptlens.values.recipe import Pooling

_BLANKS = "▁Ġ "
"""A blank, as T5 and as byte-level vocabularies write it."""


@dataclass(frozen=True)
class OwnTokens:
    """Positions and pieces of a concept's tokens, specials and padding left out."""

    positions: tuple[int, ...]
    pieces: tuple[str, ...]


@dataclass(frozen=True)
class TextToken:
    """A token of a text, and the characters `start` to `end` that it stands for."""

    id: int
    piece: str
    start: int
    end: int


def text_tokens(tokenizer: Tokenizer, text: str) -> tuple[TextToken, ...]:
    """All tokens of a text, without begin, end, padding or truncation.

    Raises:
        ModelError: for a tokenizer that does not know which characters a token is of.
    """
    if not tokenizer.is_fast:
        raise ModelError(f"{type(tokenizer).__name__} cannot say where in a text its tokens stand. Use its fast form.")
    made = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False, return_offsets_mapping=True)
    pieces = tokenizer.convert_ids_to_tokens(made.input_ids)
    rows = zip(made.input_ids, pieces, made.offset_mapping, strict=True)
    return tuple(TextToken(number, str(piece), *span) for number, piece, span in rows)


def owned(tokenizer: Tokenizer, ids: Sequence[int], places: Iterable[int]) -> tuple[int, ...]:
    """Those of some places whose token stands for letters: no special and no unknown mark, and no blank before those.

    T5 cuts "日 house" into "▁", "<unk>", "▁house": only the last of them is told apart from any other foreign word.
    """
    special = set(tokenizer.all_special_ids)
    known = [place for place in places if ids[place] not in special]
    pieces = tokenizer.convert_ids_to_tokens([ids[place] for place in known])
    blank = {place for place, piece in zip(known, pieces, strict=True) if not str(piece).strip(_BLANKS)}
    return tuple(place for place in known if place not in blank or place + 1 in set(known) - blank)


def lost_letters(tokenizer: Tokenizer, text: str) -> tuple[str, ...]:
    """The runs of letters of a text for which the vocabulary has nothing but a mark, each once, in order."""
    ids = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
    special = set(tokenizer.all_special_ids)
    if not special & set(ids):
        return ()
    if not tokenizer.is_fast:
        return (text,)
    spans: list[list[int]] = []
    for token in text_tokens(tokenizer, text):
        if token.id in special and spans and token.start <= spans[-1][1]:
            spans[-1][1] = token.end
        elif token.id in special:
            spans.append([token.start, token.end])
    return tuple(dict.fromkeys(text[start:end] for start, end in spans))


def told_apart(
    tokenizer: Tokenizer, name: str, ids: Sequence[int], places: Iterable[int], encoder: str
) -> tuple[int, ...]:
    """Those of a concept's places that are its own; letters that are lost are told in a warning.

    Raises:
        ConceptError: when nothing is left.
    """
    kept, lost = owned(tokenizer, ids, places), lost_letters(tokenizer, name)
    if not kept:
        raise ConceptError(f"concept {name!r} has no token that the {encoder} tokenizer knows. Use another word.")
    if lost:
        warnings.warn(
            f"concept {_shorten(name)!r} is read without {', '.join(map(repr, lost))}, which the {encoder} tokenizer "
            "does not know; another spelling may do better",
            stacklevel=2,
        )
    return kept


def concept_ids(tokenizer: Tokenizer, name: str, length: int, encoder: str) -> OwnTokens:
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
    positions = told_apart(tokenizer, name, ids, range(len(ids)), encoder)
    return OwnTokens(positions, tuple(tokenizer.convert_ids_to_tokens([ids[i] for i in positions])))


def _shorten(name: str) -> str:
    return name if len(name) <= 40 else name[:37] + "..."


def embed_alone(
    tokenizer: Tokenizer, encode: Callable[[str], Tensor], names: tuple[str, ...], length: int, pooling: Pooling
) -> Concepts:
    """Concepts of a T5 that reads each name by itself: its states (length, dim), pooled over the name's own tokens."""
    own = [concept_ids(tokenizer, name, length, "T5") for name in names]
    tokens = [pool_tokens(encode(name), kept.positions, pooling) for name, kept in zip(names, own, strict=True)]
    return Concepts(names, torch.stack(tokens), None, pieces=tuple(kept.pieces for kept in own))


def embed_side_by_side(
    tokenizers: Sequence[Any],
    encode: Callable[[str], Sequence[Tensor]],
    names: tuple[str, ...],
    length: int,
    pooling: Pooling,
) -> Concepts:
    """Concepts of several CLIPs that read each name by itself, and whose states (length, dim) stand side by side.

    Each is pooled over the tokens of its own tokenizer: SDXL's and SD3's pad unlike, and so cut "!!" differently.
    """
    own = [[concept_ids(tokenizer, name, length, "CLIP") for tokenizer in tokenizers] for name in names]
    tokens = [
        torch.cat(
            [pool_tokens(states, kept.positions, pooling) for states, kept in zip(encode(name), some, strict=True)]
        )
        for name, some in zip(names, own, strict=True)
    ]
    return Concepts(names, torch.stack(tokens), None, pieces=tuple(some[0].pieces for some in own))


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


def encode_watched(encoder: Model, encode: Callable[[str], Tensor], text: str) -> EncodedText:
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


def own_tokens(tokenizer: Tokenizer, name: str, text: EncodedText, empty: EncodedText, length: int) -> OwnTokens:
    """The tokens of a concept inside a chat template: what differs from the template around an empty text.

    Raises:
        ConceptError: when the concept is longer than the encoder reads, or has no token at all.
    """
    before, after = _template(text, empty)
    if before + after < len(empty.ids):
        raise _too_long(name, length)
    return _own(tokenizer, name, text, _between(text, before, after))


def tokens_between(tokenizer: Tokenizer, name: str, text: EncodedText, empty: EncodedText, length: int) -> OwnTokens:
    """As `own_tokens`, for templates that end in a space, which melts into the concept's first token.

    Raises:
        ConceptError: when the concept is longer than the encoder reads, or has no token at all.
    """
    check_length(tokenizer, name, length)
    places = _between(text, *_template(text, empty))
    alone = tokenizer(name, add_special_tokens=False, truncation=False).input_ids
    if len(text.ids) == len(text.states) and len(places) < len(alone):
        raise _too_long(name, length)
    return _own(tokenizer, name, text, places)


def _template(text: EncodedText, empty: EncodedText) -> tuple[int, int]:
    """How many tokens in front of a text, and behind it, are those of the template around an empty one."""
    before = _common(text.ids, empty.ids)
    return before, _common(text.ids[before:][::-1], empty.ids[before:][::-1])


def _between(text: EncodedText, before: int, after: int) -> range:
    """The tokens between a template's first ones and its last."""
    return range(before, len(text.ids) - after)


def _own(tokenizer: Tokenizer, name: str, text: EncodedText, places: Iterable[int]) -> OwnTokens:
    """Some tokens of a text as a concept's own. Raises `ConceptError` for none."""
    kept = told_apart(tokenizer, name, text.ids, places, "model's")
    pieces = tuple(tokenizer.convert_ids_to_tokens([text.ids[i] for i in kept]))
    return OwnTokens(tuple(text.start + i for i in kept), pieces)


def check_length(tokenizer: Tokenizer, name: str, length: int) -> None:
    """Refuses a concept that alone has more tokens than there is room for. Raises `ConceptError`."""
    if len(tokenizer(name, truncation=False).input_ids) > length:
        raise _too_long(name, length)


def _too_long(name: str, length: int) -> ConceptError:
    return ConceptError(f"concept {_shorten(name)!r} does not fit in {length} tokens. Use fewer words.")


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many leading tokens are the same."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
