"""Which tokens of an encoded concept are its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conceptlens.errors import ConceptError


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
