"""Captions with something wrong in them: what a picture model's text stream learns to mend.

All of this is text. A true caption is a sentence, a list of words or a single phrase; words of it are masked, swapped
for words of their kind that are wrong for the picture, or, before a noun, left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import T5Tokenizer

from conceptlens.bench.datasets.moving import MOTIONS, Film, describe_film, phrase
from conceptlens.bench.datasets.scenes import COLOURS, GROUNDS, NOUNS, SKIES, Scene, describe
from text import LENGTH

TINTS = tuple(dict.fromkeys((*COLOURS, *SKIES)))
"""Words that stand before a noun: colours, and the kinds of sky."""
CONTENT = (*NOUNS, "sky", *GROUNDS, *TINTS)
"""Words that a picture can prove wrong."""
FILM_CONTENT = (*CONTENT, *MOTIONS)
"""Words that a film can prove wrong."""
_KINDS = ((*NOUNS, "sky"), GROUNDS, TINTS, MOTIONS[:-2], MOTIONS[-2:])
KINDS = {word: kind for kind, words in enumerate(_KINDS) for word in words}
MASK = 2
"""The piece that stands for a masked word: T5's <unk>, which no caption of ours holds."""


@dataclass
class Corrupted:
    """Captions to be mended; (batch, LENGTH) each, -100 where nothing is to be said.

    Attributes:
        tokens: T5's ids of the corrupted captions.
        words: the true word at each word that could have been changed, an index into `FILM_CONTENT`, which
            begins with `CONTENT`.
        changed: where it was masked or swapped.
        left_out: at each noun that lost the word before it, that word: an index into `TINTS`.
    """

    tokens: Tensor
    words: Tensor
    changed: Tensor
    left_out: Tensor

    def attention_bias(self, masked: Tensor, image: int) -> Tensor:
        """(batch, 1, text + image, text + image): hides the padding from the words in the rows that `masked` picks."""
        padding = (self.tokens <= 1) & masked[:, None]
        bias = torch.zeros(len(padding), 1, LENGTH + image, LENGTH + image)
        bias[:, 0, :LENGTH, :LENGTH] = padding[:, None, :] * -1e4
        return bias


def mention(scene: Scene, rng: np.random.Generator) -> str:
    """A true caption, never empty: a sentence, a list, or a single phrase."""
    form = rng.random()
    if form < 0.4:
        while not (caption := describe(scene, rng)):
            pass
        return caption
    phrases = [f"{item.colour} {item.noun}" for item in scene.objects] + [f"{scene.sky} sky", scene.ground]
    count = int(rng.integers(1, len(phrases) + 1)) if form < 0.75 else 1
    chosen = [phrases[i] for i in rng.permutation(len(phrases))[:count]]
    if rng.random() < 0.3:
        chosen = [f"a {phrase}" for phrase in chosen]
    return str(rng.choice([", ", " and ", " "])).join(chosen)


def mention_film(film: Film, rng: np.random.Generator) -> str:
    """A true caption of a film, never empty: a sentence, a list, or a single phrase."""
    form = rng.random()
    if form < 0.4:
        while not (caption := describe_film(film, rng)):
            pass
        return caption
    coloured, moving = rng.random() < 0.8, rng.random() < 0.7
    phrases = [phrase(item, coloured=coloured, moving=moving) for item in film.objects]
    phrases += [f"{film.sky} sky", film.ground]
    count = int(rng.integers(1, len(phrases) + 1)) if form < 0.75 else 1
    chosen = [phrases[i] for i in rng.permutation(len(phrases))[:count]]
    if rng.random() < 0.5:
        chosen = [text.removeprefix("an ").removeprefix("a ") for text in chosen]
    return str(rng.choice([", ", " and "])).join(chosen)


def corrupt(
    captions: list[str], scenes: Sequence[Scene | Film], tokenizer: T5Tokenizer, rng: np.random.Generator
) -> Corrupted:
    """Masks, swaps and leaves out words of true captions, each caption at rates of its own."""
    ids = dict(zip(FILM_CONTENT, tokenizer.convert_tokens_to_ids([f"▁{word}" for word in FILM_CONTENT]), strict=True))
    shape = (len(captions), LENGTH)
    tokens, words = torch.zeros(shape, dtype=torch.long), torch.full(shape, -100)
    changed, left_out = torch.zeros(shape, dtype=torch.bool), torch.full(shape, -100)
    for row, (caption, scene) in enumerate(zip(captions, scenes, strict=True)):
        true = [{"an": "a"}.get(word, word) for word in caption.replace(",", " ,").split()]
        noun_rate, tint_rate = rng.uniform(0, 0.5), rng.uniform(0.3, 1.0)
        column, missing = 0, None
        for place, word in enumerate(true):
            kind = KINDS.get(word)
            drawn, how = rng.random(), rng.random()
            if kind == 2 and drawn < tint_rate and how < 0.45 and place + 1 < len(true):
                missing = word
                continue
            piece = "," if word == "," else f"▁{word}"
            tokens[row, column] = tokenizer.convert_tokens_to_ids(piece)
            if kind is not None:
                words[row, column] = FILM_CONTENT.index(word)
                if drawn < (tint_rate if kind >= 2 else noun_rate):
                    changed[row, column] = True
                    tokens[row, column] = MASK if how < (0.75 if kind >= 2 else 0.35) else ids[_wrong(word, scene, rng)]
                elif missing:
                    left_out[row, column] = TINTS.index(missing)
                missing = None
            column += 1
        tokens[row, column] = 1
    return Corrupted(tokens, words, changed, left_out)


def _wrong(word: str, scene: Scene | Film, rng: np.random.Generator) -> str:
    """Another word of the same kind; for a noun or a ground, one that the picture does not show."""
    others = [w for w, kind in KINDS.items() if kind == KINDS[word] and w != word and w not in scene.concepts]
    return str(rng.choice(others))
