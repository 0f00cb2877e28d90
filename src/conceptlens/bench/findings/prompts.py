"""Prompts of two objects."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from conceptlens.bench.datasets.scenes import COLOURS as SCENE_COLOURS
from conceptlens.bench.datasets.scenes import NOUNS
from conceptlens.bench.fidelity.prompts import read_prompts

ANIMALS = ("cat", "dog", "bird", "bear", "lion", "horse", "elephant", "monkey", "frog", "turtle", "rabbit", "mouse")
OBJECTS = (
    *("backpack", "glasses", "crown", "suitcase", "chair", "balloon"),
    *("bow", "car", "bowl", "bench", "clock", "apple"),
)
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "gray", "black", "white")
"""Words of the template prompts of Attend-and-Excite (arXiv 2301.13826, appendix)."""

ALL_COLOURS = tuple(dict.fromkeys((*COLOURS, *SCENE_COLOURS)))


def phrase(*words: str) -> str:
    """The words behind their article."""
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"


def _coloured(pairs: Sequence[tuple[str, str]], colours: Sequence[str], both: bool) -> list[str]:
    rng, prompts = np.random.default_rng(2024), []
    for first, second in pairs:
        one, other = (str(colour) for colour in rng.choice(colours, 2, replace=False))
        prompts.append(f"{phrase(one, first) if both else phrase(first)} and {phrase(other, second)}")
    return prompts


def _scenes() -> list[str]:
    pairs = list(itertools.combinations(NOUNS, 2))
    order = np.random.default_rng(2024).permutation(len(pairs))
    return _coloured([pairs[n] for n in order], list(SCENE_COLOURS), both=True)


LISTS: dict[str, Callable[[], list[str]]] = {
    "scenes": _scenes,
    "objects": lambda: _coloured(list(itertools.combinations(OBJECTS, 2)), COLOURS, both=True),
    "animals-objects": lambda: _coloured(list(itertools.product(ANIMALS, OBJECTS)), COLOURS, both=False),
    "animals": lambda: [f"{phrase(a)} and {phrase(b)}" for a, b in itertools.combinations(ANIMALS, 2)],
}
"""`scenes`: coloured pairs of the embedded models' things. The others: the templates of Attend-and-Excite, every pair
once, two different colours drawn with a fixed seed (66, 144 and 66 prompts)."""


def prompts_named(name: str, limit: int | None = None) -> list[str]:
    """A built-in list, or the prompts of a file.

    Raises:
        FidelityError: when it is neither.
    """
    prompts = LISTS[name]() if name in LISTS else [str(row["prompt"]) for row in read_prompts(Path(name))]
    return list(dict.fromkeys(prompts))[:limit]
