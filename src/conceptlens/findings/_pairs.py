"""Which words of a prompt belong together, and matrices between words."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from conceptlens.bench.metrics import roc_auc
from conceptlens.findings._reading import EncoderReading
from conceptlens.guidance._losses import row_normalized
from conceptlens.guidance._text import PromptText

KINDS = ("bound", "unbound", "objects", "neighbours")
"""A noun and its own modifier; a noun and another's; two nouns; side by side but not bound ("a red", "and a")."""


def word_pairs(text: PromptText, *, causal: bool) -> dict[str, list[tuple[int, int]]]:
    """(row, column) numbers of words, by kind; nouns are rows, later nouns before earlier ones.

    Args:
        text: the prompt; words belong together by adjacency (see `PromptText.groups`).
        causal: leave out pairs whose row could not see its column.
    """
    number = {places: n for n, (_, places) in enumerate(text.words)}
    groups = [tuple(number[places] for places in group) for group in text.groups(None)]
    nouns = [group[-1] for group in groups]
    pairs = {"bound": [(group[-1], m) for group in groups for m in group[:-1]]}
    pairs["unbound"] = [
        (noun, m) for noun in nouns for g in groups if g[-1] != noun for m in g[:-1] if m < noun or not causal
    ]
    pairs["objects"] = [(later, noun) for n, noun in enumerate(nouns) for later in nouns[n + 1 :]]
    together = {frozenset(pair) for group in groups for pair in itertools.pairwise(group)}
    pairs["neighbours"] = [(n, n - 1) for n in range(1, len(text.words)) if frozenset((n, n - 1)) not in together]
    return pairs


def word_attention(reading: EncoderReading, attention: Float[Tensor, "token token"]) -> Float[Tensor, "word word"]:
    """Attention among words with unit rows: what a word's pieces pay on average, and get in sum."""
    member = torch.zeros(len(reading.text.words), len(attention))
    for row, (_, places) in enumerate(reading.text.words):
        member[row, reading.places(places)] = 1
    merged = (member / member.sum(1, keepdim=True)) @ attention @ member.T
    return row_normalized(merged, causal=reading.causal)


def word_cosines(vectors: Float[Tensor, "token dim"], places: Sequence[Sequence[int]]) -> Float[Tensor, "word word"]:
    """Cosine similarities of words, each the mean of its tokens' vectors."""
    unit = F.normalize(torch.stack([vectors[list(p)].mean(0) for p in places]), dim=1)
    return unit @ unit.T


Values = list[Mapping[str, list[float]]]
"""For each prompt, the values of its pairs by kind."""


def auc(values: Values, positive: str, negative: str) -> tuple[float, float, float]:
    """Chance that a pair of one kind is above one of another, with a 95% bootstrap interval over prompts."""
    found = [(np.array(v[positive]), np.array(v[negative])) for v in values]

    def of(chosen: Sequence[int]) -> float:
        above, below = (np.concatenate([found[n][side] for n in chosen]) for side in (0, 1))
        return roc_auc(np.concatenate([above, below]), np.arange(len(above) + len(below)) < len(above))

    return with_interval(of, len(values))


def with_interval(of: Callable[[Sequence[int]], float], count: int, draws: int = 1000) -> tuple[float, float, float]:
    """A figure of items 0..count-1, with a 95% bootstrap interval over items."""
    rng = np.random.default_rng(0)
    drawn = [of(rng.integers(0, count, count)) for _ in range(draws)]
    if not np.isfinite(drawn).any():
        return of(range(count)), np.nan, np.nan
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return of(range(count)), float(low), float(high)
