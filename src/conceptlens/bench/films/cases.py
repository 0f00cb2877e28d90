"""Which films are read: of the test split as they come, and in turn with them two things of one noun that meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from conceptlens.bench.datasets.moving import SIDEWAYS, Film, make_film
from conceptlens.bench.datasets.scenes import SPLITS

FIRST = 1000
"""The place of the first film in the test split: on earlier ones the rules of `maps.links` were chosen."""


@dataclass(frozen=True)
class FilmCase:
    """One film.

    Attributes:
        number: its place in the run.
        film: with its truth.
        pair: whether it is of two things of one noun that meet.
    """

    number: int
    film: Film
    pair: bool

    @property
    def id(self) -> str:
        return case_id(self.number)

    @property
    def nouns(self) -> tuple[str, ...]:
        """What its objects are, each once."""
        return tuple(dict.fromkeys(item.noun for item in self.film.objects))

    def of_frames(self, numbers: Sequence[int]) -> FilmCase:
        """The film of some of its frames: of those that a model takes."""
        parts = {name: getattr(self.film, name)[list(numbers)] for name in ("frames", "labels", "instances")}
        return replace(self, film=replace(self.film, **parts))


def case_id(number: int) -> str:
    """The id of the row of a place in the run."""
    return f"{number:05d}"


def film_case(number: int) -> FilmCase:
    """The film of a place in the run: even ones are of the test split, odd ones pairs that meet."""
    seed = SPLITS["test"] + FIRST + number
    if number % 2 == 0:
        return FilmCase(number, make_film(seed), pair=False)
    noun = str(np.random.default_rng(seed).choice(list(SIDEWAYS)))
    return FilmCase(number, make_film(seed, nouns=(noun, noun), crossing=True), pair=True)
