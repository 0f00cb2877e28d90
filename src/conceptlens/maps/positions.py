"""Where concepts are, in numbers and words: boxes, centres, shares of the image, who is left of whom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

MARGIN = 0.05
"""Centres that are closer than this share of the image's side are neither left nor right, above nor below."""


@dataclass(frozen=True)
class Place:
    """Where one mask is.

    Attributes:
        box: left, top, right and bottom in pixels, the last two exclusive; None for an empty mask.
        centroid: x and y of the mean of its pixels' centres, in pixels from the top left; None for an empty mask.
        area: its share of the image, 0..1.
    """

    box: tuple[int, int, int, int] | None
    centroid: tuple[float, float] | None
    area: float


@dataclass(frozen=True)
class Relation:
    """How one concept stands to another, by their centres.

    Attributes:
        first: the concept that is spoken of.
        second: the one it is compared with.
        dx: from the second's centre to the first's, as a share of the image's width; negative is left.
        dy: the same of the height; negative is above.
    """

    first: str
    second: str
    dx: float
    dy: float

    @property
    def words(self) -> tuple[str, ...]:
        """Of "left of", "right of", "above" and "below" those that hold by more than `MARGIN`; the greater first."""
        directions = [(abs(self.dx), "left of" if self.dx < 0 else "right of")]
        directions += [(abs(self.dy), "above" if self.dy < 0 else "below")]
        return tuple(word for far, word in sorted(directions, reverse=True) if far > MARGIN)

    def __str__(self) -> str:
        return f"{self.first} {' and '.join(self.words) or 'at the place of'} {self.second}"


def box_of(mask: Bool[np.ndarray, "height width"]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a mask that is not empty, in pixels, the last two exclusive."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1


def place_of(mask: Bool[np.ndarray, "height width"]) -> Place:
    """The box, centre and area of a mask."""
    if not mask.any():
        return Place(None, None, 0.0)
    rows, cols = np.nonzero(mask)
    return Place(box_of(mask), (float(cols.mean()) + 0.5, float(rows.mean()) + 0.5), float(mask.mean()))


def relate(places: dict[str, Place], size: tuple[int, int]) -> tuple[Relation, ...]:
    """Every pair of concepts that have a place, each pair once, in order; `size` is the image's width and height."""
    centres = [(name, place.centroid) for name, place in places.items() if place.centroid is not None]
    return tuple(
        Relation(first, second, (a[0] - b[0]) / size[0], (a[1] - b[1]) / size[1])
        for number, (first, a) in enumerate(centres)
        for second, b in centres[number + 1 :]
    )
