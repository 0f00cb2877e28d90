"""Which tokens of a prompt are a word's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from conceptlens.errors import ConceptError

_END, _START = "</w>", "▁"
"""CLIP marks the last piece of a word, T5 the first."""


def joined_prompt(caption: str, concepts: Sequence[str], separator: str = ",") -> str:
    """The caption and then every concept with an article: "a dog,a dog, a tree"."""
    listed = ", ".join(f"a {name}" for name in concepts)
    return f"{caption}{separator}{listed}" if caption else listed


def clip_positions(tokenizer: Any, text: str, word: str, *, ignore_endings: bool = False) -> tuple[int, ...]:
    """Positions of a word's tokens in a text encoded by CLIP (begin-of-text at 0): every place where the word stands.

    Args:
        tokenizer: of a CLIP text encoder.
        text: the whole prompt.
        word: one or more words; their tokens must stand side by side, in order.
        ignore_endings: compare without the end-of-word mark, as the `daam` package does: "dog" is then also found
            inside "doghouse".

    Raises:
        ConceptError: when the word is not in the text, or only behind what the encoder reads.
    """
    prompt, wanted = (_pieces(tokenizer, part) for part in (text, word))
    if ignore_endings:
        prompt, wanted = ([piece.removesuffix(_END) for piece in part] for part in (prompt, wanted))
    starts = _starts(prompt, wanted)
    room = tokenizer.model_max_length - 2  # begin-of-text and end-of-text take one each
    return tuple(at + 1 for at in _positions(starts, text, word, len(wanted), room, "CLIP"))


def t5_positions(tokenizer: Any, text: str, word: str, length: int) -> tuple[int, ...]:
    """Positions of a word's tokens in a text encoded by T5, which reads `length` tokens with the end of text.

    A place where another letter follows is the beginning of another word and does not count.

    Raises:
        ConceptError: when the word is not in the text, or only behind what the encoder reads.
    """
    prompt, wanted = (_pieces(tokenizer, part) for part in (text, word))
    ends = [piece.startswith(_START) or not piece[0].isalnum() for piece in [*prompt[1:], _START]]
    starts = [start for start in _starts(prompt, wanted) if ends[start + len(wanted) - 1]]
    return _positions(starts, text, word, len(wanted), length - 1, "T5")


def _starts(prompt: list[str], wanted: list[str]) -> list[int]:
    size = len(wanted)
    return [i for i in range(len(prompt) - size + 1) if prompt[i : i + size] == wanted]


def _positions(starts: list[int], text: str, word: str, size: int, room: int, encoder: str) -> tuple[int, ...]:
    if not size:
        raise ConceptError(f"concept {word!r} has no token that the {encoder} tokenizer knows. Use another word.")
    if not starts:
        raise ConceptError(
            f"concept {word!r} is not in the prompt {_shorten(text)!r}, so it has no tokens there. Name it there."
        )
    kept = [start for start in starts if start + size <= room]
    if not kept:
        raise ConceptError(
            f"concept {word!r} stands behind the {room} tokens that the {encoder} text encoder reads (token "
            f"{starts[0] + 1} of the prompt). Use fewer concepts or a shorter prompt."
        )
    return tuple(sorted({start + offset for start in kept for offset in range(size)}))


def _pieces(tokenizer: Any, text: str) -> list[str]:
    ids = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
    return list(tokenizer.convert_ids_to_tokens(ids))


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
