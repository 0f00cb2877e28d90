"""Which words of a prompt belong together, and matrices between words."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from conceptlens.bench.findings.reading import EncoderReading
from conceptlens.ops.alignment import row_normalized
from conceptlens.watch.prompt_text import PromptText, merged

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
    words = [reading.places(places) for _, places in reading.text.words]
    return row_normalized(merged(attention, words), causal=reading.causal)


def word_cosines(vectors: Float[Tensor, "token dim"], places: Sequence[Sequence[int]]) -> Float[Tensor, "word word"]:
    """Cosine similarities of words, each the mean of its tokens' vectors."""
    unit = F.normalize(torch.stack([vectors[list(p)].mean(0) for p in places]), dim=1)
    return unit @ unit.T


Values = list[Mapping[str, list[float]]]
"""For each prompt, the values of its pairs by kind."""


def auc(
    values: Sequence[Mapping[str, Sequence[float]]], positive: str, negative: str, draws: int = 1000
) -> tuple[float, float, float]:
    """Chance that a pair of one kind is above one of another, with a 95% bootstrap interval over prompts.

    Ties count half, as in `bench.metrics.roc_auc`; NaN without both kinds.
    """
    sides = [[np.array(one[kind]) for one in values] for kind in (positive, negative)]
    above, below = ([len(one) for one in side] for side in sides)
    # How often positives of one prompt are above negatives of another: drawing prompts weights rows and columns.
    wins = np.array([[(np.sign(p[:, None] - n) + 1).sum() / 2 for n in sides[1]] for p in sides[0]])

    def of(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.einsum("dp,pq,dq->d", weights, wins, weights) / ((weights @ above) * (weights @ below))

    whole = float(of(np.ones((1, len(values))))[0])
    return whole, *_interval(of(np.stack([np.bincount(d, minlength=len(values)) for d in _drawn(len(values), draws)])))


def with_interval(of: Callable[[Sequence[int]], float], count: int, draws: int = 1000) -> tuple[float, float, float]:
    """A figure of items 0..count-1, with a 95% bootstrap interval over items."""
    return of(range(count)), *_interval(np.array([of(chosen.tolist()) for chosen in _drawn(count, draws)]))


def _drawn(count: int, draws: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, count, (draws, count))


def _interval(values: np.ndarray) -> tuple[float, float]:
    if not np.isfinite(values).any():
        return np.nan, np.nan
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)
