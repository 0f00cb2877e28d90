"""Which tokens of a prompt are a word's own, for CLIP's byte-pair tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from conceptlens.errors import ConceptError

_END = "</w>"


def joined_prompt(caption: str, concepts: Sequence[str], separator: str = ",") -> str:
    """The caption and then every concept with an article: "a dog,a dog, a tree"."""
    listed = ", ".join(f"a {name}" for name in concepts)
    return f"{caption}{separator}{listed}" if caption else listed


def word_positions(tokenizer: Any, text: str, word: str, *, ignore_endings: bool = False) -> tuple[int, ...]:
    """Positions of a word's tokens in an encoded text (begin-of-text at 0): every place where the word stands.

    Args:
        tokenizer: of a CLIP text encoder.
        text: the whole prompt.
        word: one or more words; their tokens must stand side by side, in order.
        ignore_endings: compare without the end-of-word mark, as the `daam` package does: "dog" is then also found
            inside "doghouse".

    Raises:
        ConceptError: when the word is not in the text, or only behind what the encoder reads.
    """
    prompt, wanted = (_pieces(tokenizer, part, ignore_endings) for part in (text, word))
    if not wanted:
        raise ConceptError(f"concept {word!r} has no token that the CLIP tokenizer knows. Use another word.")
    size = len(wanted)
    starts = [i for i in range(len(prompt) - size + 1) if prompt[i : i + size] == wanted]
    if not starts:
        raise ConceptError(f"concept {word!r} is not in the prompt {_shorten(text)!r}, so it has no tokens there.")
    room = tokenizer.model_max_length - 2  # begin-of-text and end-of-text take one each
    kept = [start for start in starts if start + size <= room]
    if not kept:
        raise ConceptError(
            f"concept {word!r} stands behind the {room} tokens that the CLIP text encoder reads (token {starts[0] + 1} "
            "of the prompt). Use fewer concepts or a shorter prompt."
        )
    return tuple(sorted({start + 1 + offset for start in kept for offset in range(size)}))


def _pieces(tokenizer: Any, text: str, ignore_endings: bool) -> list[str]:
    ids = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
    pieces = tokenizer.convert_ids_to_tokens(ids)
    return [piece.removesuffix(_END) for piece in pieces] if ignore_endings else list(pieces)


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
