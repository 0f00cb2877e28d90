"""Where the words of a prompt stand: words out of tokens, and which mention of a word is meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from conceptlens.families.kinds.tokens import TextToken, text_tokens
from conceptlens.values.errors import ModelError
from conceptlens.values.models import Tokenizer

Places = tuple[int, ...]
"""Encoder positions of a word, or of a run of words."""
_END, _START = "</w>", "▁"
"""CLIP marks the last piece of a word, T5 the first."""


@dataclass(frozen=True)
class Word:
    """A whole word, the positions of its pieces, and the characters `start` to `end` of the text that it is."""

    text: str
    positions: Places
    start: int
    end: int


def read_words(tokenizer: Tokenizer, text: str, ids: Sequence[int], positions: Sequence[int]) -> tuple[str, list[Word]]:
    """The text that was encoded, and its words at the positions of their tokens among the encoder's `ids`.

    Words end at blanks and marks, as CLIP parts them ("ship", "'s"). The several vectors of one textual inversion,
    named "<toy>", "<toy>_1", ..., are one word.

    Raises:
        ModelError: when the encoder read other tokens than those of the text.
    """
    read = [ids[position] for position in positions]
    # Some pipelines change a prompt first (lower case, no blanks around it); then what was read is all that is known.
    for encoded in (text, tokenizer.decode(read)):
        tokens = text_tokens(tokenizer, encoded)
        if [token.id for token in tokens[: len(read)]] == read:
            words = _words(tokenizer, encoded, tokens[: len(read)], positions)
            # Unknown marks at the end of a text look like padding; they still belong to its last word.
            for token in tokens[len(read) :] if words else ():
                if token.id != tokenizer.unk_token_id or token.start > words[-1].end:
                    break
                words[-1] = replace(words[-1], text=encoded[words[-1].start : token.end], end=token.end)
            return encoded, words
    raise ModelError(
        f"the text encoder read other tokens than those of {text!r:.60}. Give the pipeline its own encoder."
    )


def _words(tokenizer: Tokenizer, text: str, tokens: Sequence[TextToken], positions: Sequence[int]) -> list[Word]:
    added = set(tokenizer.added_tokens_decoder) - set(tokenizer.all_special_ids)
    words: list[Word] = []
    for number, (token, position) in enumerate(zip(tokens, positions, strict=True)):
        last = words[-1] if words else None
        if last is not None and token.id in added and token.piece.rpartition("_")[0] == last.text:
            words[-1] = Word(last.text, (*last.positions, position), last.start, last.end)
        elif last is None or _ends(text, tokens[number - 1], token, added):
            words.append(Word(text[token.start : token.end], (position,), token.start, token.end))
        else:
            end = max(last.end, token.end)
            words[-1] = Word(text[last.start : end], (*last.positions, position), last.start, end)
    return words


def _ends(text: str, token: TextToken, following: TextToken, added: set[int]) -> bool:
    """Whether a word ends between two tokens."""
    if following.start < token.end:
        return False  # two bytes of one letter, or the blank that T5 puts before a word's first piece
    if token.piece.endswith(_END) or following.piece.startswith(_START) or {token.id, following.id} & added:
        return True
    between = text[token.end : following.start]
    if between.isspace():
        return True
    before, after = text[token.end - 1], text[following.start]
    if not after.isalnum():
        return True
    apostrophe = before in "'’" and text[token.end - 2 : token.end - 1].isalnum()
    return not (before.isalnum() or apostrophe)


def assigned(
    groups: Sequence[Sequence[Sequence[Places]]], word_of: Mapping[int, int]
) -> tuple[tuple[Places, ...], ...]:
    """For groups of words, each with all places where it stands, the places that are meant: one of each word.

    A group stands side by side in its order where it can, or as closely as it can around its last word. No two groups
    get the same place as long as there are others; the first of equal groups gets the first.

    Args:
        groups: for each word of each group its places.
        word_of: the number of the word at each position; distances are counted in words.
    """
    chosen: dict[int, tuple[Places, ...]] = {}
    taken: set[int] = set()
    while len(chosen) < len(groups):
        waiting = [number for number in range(len(groups)) if number not in chosen]
        offers = [(number, offer) for number in waiting for offer in _offers(groups[number], word_of)]
        number, offer = min(offers, key=lambda offered: _cost(offered[1], taken, word_of))
        chosen[number] = offer
        taken |= {place for places in offer for place in places}
    return tuple(chosen[number] for number in range(len(groups)))


def _offers(words: Sequence[Sequence[Places]], word_of: Mapping[int, int]) -> list[tuple[Places, ...]]:
    """Around each place of the last word, the nearest place of each other word; before it rather than behind it."""
    offers: list[tuple[Places, ...]] = []
    for anchor in words[-1]:
        offer: list[Places] = [anchor]
        for places in reversed(words[:-1]):
            free = [place for place in places if place not in offer] or places
            offer.append(min(free, key=lambda place: _distance(place, anchor, word_of)))
        offers.append(tuple(reversed(offer)))
    return offers


def _distance(place: Places, anchor: Places, word_of: Mapping[int, int]) -> tuple[int, bool]:
    behind = place[0] > anchor[0]
    first, second = (anchor, place) if behind else (place, anchor)
    return word_of[second[0]] - word_of[first[-1]], behind


def _cost(offer: Sequence[Places], taken: set[int], word_of: Mapping[int, int]) -> tuple[int, bool, int, int]:
    """Places that are taken, whether the words stand otherwise than in a row, words in between, the first word."""
    flat = [place for places in offer for place in places]
    words = list(dict.fromkeys(word_of[place] for place in flat))
    first = min(words)
    in_a_row = words == list(range(first, first + len(words)))
    return len(taken & set(flat)), not in_a_row, max(words) - first + 1 - len(words), first
