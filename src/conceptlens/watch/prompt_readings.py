"""A prompt's words, the same for text encoders that cut it into different pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from torch import Tensor

from conceptlens.values.models import Tokenizer
from conceptlens.watch.prompt_text import PromptText, merged
from conceptlens.watch.t5_text import t5_positions
from conceptlens.watch.word_places import read_words


def read_t5_prompt(
    prompt: str, tokenizer: Tokenizer, input_ids: Tensor, attention: Tensor, encoded: str | None = None
) -> PromptText:
    """One row of a batch as T5 read it; `attention` is (layer, token, token) of the whole, padded sequence.

    `encoded` is the prompt with its textual inversions spelt out, where that is another text.
    """
    ids, positions = input_ids.tolist(), t5_positions(input_ids, tokenizer.eos_token_id)
    span = slice(len(positions))
    text, words = read_words(tokenizer, prompt if encoded is None else encoded, ids, positions)
    return PromptText(
        prompt=prompt,
        tokens=tuple(str(tokenizer.convert_ids_to_tokens(ids[p])) for p in positions),
        positions=positions,
        words=tuple((word.text, word.positions) for word in words),
        attention=(attention[:, span, span].cpu(),),
        causal=False,
        encoded=text,
        spans=tuple((word.start, word.end) for word in words),
    )


def by_words(text: PromptText, names: Sequence[str], first: int) -> PromptText:
    """The text with whole words for tokens, at positions `first`, `first + 1`, ... of the words `names`.

    Words of `names` that the text does not have are left out of it.
    """
    start = text.positions[0] if text.positions else 0
    pieces: dict[int, list[int]] = {}
    spans: dict[int, tuple[int, int]] = {}
    for number, other in enumerate(aligned([word for word, _ in text.words], names)):
        if other is not None:
            pieces.setdefault(other, []).extend(place - start for place in text.words[number][1])
            spans[other] = (spans.get(other, text.spans[number])[0], text.spans[number][1])
    numbers = sorted(pieces)
    return replace(
        text,
        tokens=tuple(names[n] for n in numbers),
        positions=tuple(first + n for n in numbers),
        words=tuple((names[n], (first + n,)) for n in numbers),
        attention=tuple(merged(a, [pieces[n] for n in numbers]) for a in text.attention),
        spans=tuple(spans[n] for n in numbers),
    )


def aligned(words: Sequence[str], onto: Sequence[str]) -> list[int | None]:
    """For each word the number of the word of `onto` that holds most of its letters, read in order.

    >>> aligned(["don", "'t", "panic", "!"], ["don't", "panic!"])
    [0, 0, 1, 1]
    """
    letters, owners = _letters(words)
    others, targets = _letters(onto)
    shared: list[dict[int, int]] = [{} for _ in words]
    for block in SequenceMatcher(None, letters, others, autojunk=False).get_matching_blocks():
        for n in range(block.size):
            count = shared[owners[block.a + n]]
            target = targets[block.b + n]
            count[target] = count.get(target, 0) + 1
    return [max(count, key=lambda target: count[target]) if count else None for count in shared]


def _letters(words: Sequence[str]) -> tuple[str, list[int]]:
    """The words without blanks, in one case, and the word that each letter is of."""
    plain = ["".join(word.casefold().split()) for word in words]
    return "".join(plain), [number for number, word in enumerate(plain) for _ in word]
