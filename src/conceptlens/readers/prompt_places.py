"""Which tokens of a prompt are a word's own."""

from __future__ import annotations

from collections.abc import Sequence

from conceptlens.families.kinds.tokens import text_tokens, told_apart
from conceptlens.values.errors import ConceptError
from conceptlens.values.models import Tokenizer
from conceptlens.values.words import mentions

_END = "</w>"
"""CLIP's mark of the last piece of a word."""


def joined_prompt(caption: str, concepts: Sequence[str], separator: str = ",") -> str:
    """The caption and then every concept with an article: "a dog,a dog, a tree"."""
    listed = ", ".join(f"a {name}" for name in concepts)
    return f"{caption}{separator}{listed}" if caption else listed


def clip_positions(tokenizer: Tokenizer, text: str, word: str, *, ignore_endings: bool = False) -> tuple[int, ...]:
    """Positions of a word's tokens in a text encoded by CLIP (begin-of-text at 0): every place where the word stands.

    Args:
        tokenizer: of a CLIP text encoder.
        text: the whole prompt.
        word: one or more words, which stand side by side, in order.
        ignore_endings: compare pieces without the end-of-word mark, as the `daam` package does: "dog" is then also
            found inside "doghouse".

    Raises:
        ConceptError: when the word is not in the text, or only behind what the encoder reads, or has no token.
    """
    room = tokenizer.model_max_length - 2  # begin-of-text and end-of-text take one each
    runs = _runs_of_pieces(tokenizer, text, word) if ignore_endings else _runs(tokenizer, text, word)
    return tuple(place + 1 for place in _positions(tokenizer, runs, text, word, room, "CLIP"))


def t5_positions(tokenizer: Tokenizer, text: str, word: str, length: int) -> tuple[int, ...]:
    """Positions of a word's tokens in a text encoded by T5, which reads `length` tokens with the end of text.

    Only where it is written with the same capitals, which T5 tells apart.

    Raises:
        ConceptError: when the word is not in the text, or only behind what the encoder reads, or has no token.
    """
    return _positions(tokenizer, _runs(tokenizer, text, word, any_case=False), text, word, length - 1, "T5")


def _runs(tokenizer: Tokenizer, text: str, word: str, *, any_case: bool = True) -> list[range]:
    """The tokens of each place where a word stands."""
    tokens, runs = text_tokens(tokenizer, text), []
    for start, end in mentions(text, word, any_case=any_case):
        places = [place for place, token in enumerate(tokens) if token.start < end and start < token.end]
        runs += [range(places[0], places[-1] + 1)] if places else []
    return runs


def _runs_of_pieces(tokenizer: Tokenizer, text: str, word: str) -> list[range]:
    prompt, wanted = (
        [token.piece.removesuffix(_END) for token in text_tokens(tokenizer, part)] for part in (text, word)
    )
    size = len(wanted)
    return [range(i, i + size) for i in range(len(prompt) - size + 1) if size and prompt[i : i + size] == wanted]


def _positions(
    tokenizer: Tokenizer, runs: Sequence[range], text: str, word: str, room: int, encoder: str
) -> tuple[int, ...]:
    ids = [token.id for token in text_tokens(tokenizer, text)]
    if not runs:
        alone = [token.id for token in text_tokens(tokenizer, word)]
        told_apart(tokenizer, word, alone, range(len(alone)), encoder)
        raise ConceptError(
            f"concept {word!r} is not in the prompt {_shorten(text)!r}, so it has no tokens there. Name it there."
        )
    read = [run for run in runs if run[-1] < room]
    if not read:
        raise ConceptError(
            f"concept {word!r} stands behind the {room} tokens that the {encoder} text encoder reads (token "
            f"{runs[0][0] + 1} of the prompt). Use fewer concepts or a shorter prompt."
        )
    return told_apart(tokenizer, word, ids, sorted({place for run in read for place in run}), encoder)


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
