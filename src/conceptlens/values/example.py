"""The first picture that a newcomer sees: of `conceptlens demo`, and of the page with the embedded model."""

from __future__ import annotations

from typing import NamedTuple


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
