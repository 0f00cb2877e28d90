"""The first picture that a newcomer sees: of `conceptlens demo`, and of the page with the embedded model."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import NamedTuple

from conceptlens.values.words import ranked_words


class Example(NamedTuple):
    """A picture that a model paints well.

    Attributes:
        prompt: what it shows.
        seed: of the starting noise.
        words: those that are mapped.
    """

    prompt: str
    seed: int
    words: tuple[str, ...]


EXAMPLES = {"demo": Example("a yellow balloon above a house in the snow", 33, ("balloon", "house", "snow", "sky"))}
"""By model; each was looked at, and no area in it is wrong."""


def suggested_prompt(vocabulary: Sequence[str] | None, background: Container[str] = ()) -> str:
    """A prompt to begin with, for a model without an example.

    Args:
        vocabulary: the words that the model knows; None where it knows all.
        background: words of these that fill pictures and are no single things.
    """
    if vocabulary is None:
        return "a cat on a sofa in front of a window"
    things = [word for word in ranked_words(vocabulary) if word not in background]
    return f"a {things[0]} and a {things[1]}" if len(things) > 1 else " ".join(vocabulary[:1])
