"""Which instance of one frame is which of the next: by the model's own matches, or by where masks overlap."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from conceptlens.ops.grids import resize
from conceptlens.ops.tracks import REACH, assigned, cells_of, low_pass, on_patches, shares

Mask = Bool[np.ndarray, "height width"]
Linking = Literal["match", "overlap"]
LEAST_LIFT = 1.2
"""How much more of an instance's match must end in another than in any area of that size."""
FARTHEST = 0.25
"""Share of the frame's diagonal that centres may move from one frame to the next, by overlap alone."""


class Link(ABC):
    """Says how well instances of an earlier frame fit those of a later one.

    Attributes:
        least: the gain below which they are never one.
        divides: whether a part in which several end can be divided.
    """

    least: float
    divides: ClassVar[bool] = False

    @abstractmethod
    def reaches(self, first: int, later: int) -> bool:
        """Whether two frames can be compared."""

    @abstractmethod
    def gains(
        self, masks: Sequence[Mask], parts: Sequence[Mask], first: int, later: int
    ) -> Float[np.ndarray, "mask part"]:
        """How well each mask of frame `first` fits each part of frame `later`."""

    def divided(self, part: Mask, masks: Sequence[Mask], first: int, later: int) -> list[Mask]:
        """One part of frame `later` cut into what belongs to each mask of frame `first`."""
        raise NotImplementedError


@dataclass(frozen=True)
class MatchLink(Link):
    """By the matches of `ops.tracks.frame_matches`.

    Attributes:
        matches: between latent frames.
        grid: rows and columns of the patches.
        latent: the latent frame of each frame.
    """

    matches: Float[Tensor, "gap frame cell cell"]
    grid: tuple[int, int]
    latent: Sequence[int]
    least = math.log(LEAST_LIFT)
    divides = True

    def reaches(self, first: int, later: int) -> bool:
        return self.latent[later] - self.latent[first] <= len(self.matches)

    def landing(self, mask: Mask, first: int, later: int) -> Float[Tensor, " cell"]:
        """Where the cells of a mask are in a later frame: non-negative, of sum one."""
        weights = shares(mask, *self.grid)
        start, gap = self.latent[first], self.latent[later] - self.latent[first]
        there = weights @ self.matches[gap - 1, start] if gap else weights
        return low_pass(there / there.sum(), cells_of(*self.grid))

    def gains(
        self, masks: Sequence[Mask], parts: Sequence[Mask], first: int, later: int
    ) -> Float[np.ndarray, "mask part"]:
        """Logarithms of lifts: the share of a match that ends in a part, over the part's share of the frame."""
        covers = torch.stack([shares(part, *self.grid) for part in parts])
        landings = torch.stack([self.landing(mask, first, later) for mask in masks])
        lifts = landings @ covers.T / covers.mean(dim=1)
        return lifts.clamp_min(1e-9).log().numpy()

    def divided(self, part: Mask, masks: Sequence[Mask], first: int, later: int) -> list[Mask]:
        height, width = part.shape
        fields = [on_patches(self.landing(mask, first, later), *self.grid) for mask in masks]
        owner = resize(torch.stack(fields), height, width).argmax(dim=0).numpy()
        return [part & (owner == number) for number in range(len(masks))]


class OverlapLink(Link):
    """By intersection over union from one frame to the next; where nothing overlaps, by the nearest centre."""

    least = 1e-6

    def reaches(self, first: int, later: int) -> bool:
        return later - first <= REACH

    def gains(
        self, masks: Sequence[Mask], parts: Sequence[Mask], first: int, later: int
    ) -> Float[np.ndarray, "mask part"]:
        """Intersection over union; without one, at most 0.001, less with the distance; 0 beyond `FARTHEST`."""
        return np.array([[_fit(mask, part) for part in parts] for mask in masks]).reshape(len(masks), len(parts))


def _fit(mask: Mask, part: Mask) -> float:
    both = (mask & part).sum()
    if both:
        return float(both / (mask | part).sum())
    (y, x), (v, u) = (np.argwhere(one).mean(axis=0) for one in (mask, part))
    return max(0.0, 1e-3 * (1 - math.hypot(y - v, x - u) / (FARTHEST * math.hypot(*mask.shape))))


@dataclass(eq=False)
class _Instance:
    """One instance as far as it is known.

    Attributes:
        masks: by frame.
        size: its pixels when it was last seen by itself, or as it leaves the frame.
    """

    masks: dict[int, Mask]
    size: int

    @property
    def last(self) -> int:
        """The frame that showed it last."""
        return max(self.masks)


def linked(parts: Sequence[Sequence[Mask]], link: Link, smallest: float) -> list[dict[int, Mask]]:
    """Instances over all frames: for each the frames that show it, and its mask there.

    Those seen last are linked first; what was out of sight takes what is left. A part in which several end that were
    apart before, and which has room for them, is divided between them.

    Args:
        parts: of each frame the masks of its instances.
        link: how they are compared.
        smallest: share of the frame below which a piece of a divided part is none.
    """
    known: list[_Instance] = []
    for frame, here in enumerate(parts):
        reached = [one for one in known if link.reaches(one.last, frame)]
        taken: dict[int, list[_Instance]] = {}
        for last in sorted({one.last for one in reached}, reverse=True) if here else ():
            _claim([one for one in reached if one.last == last], here, frame, link, taken)
        for number, several in taken.items():
            _give(here[number], several, frame, link, smallest)
        known += [_Instance({frame: part}, int(part.sum())) for number, part in enumerate(here) if number not in taken]
    return [one.masks for one in known]


def _claim(
    waiting: Sequence[_Instance],
    here: Sequence[Mask],
    frame: int,
    link: Link,
    taken: dict[int, list[_Instance]],
) -> None:
    """Adds to `taken` the parts that instances of one earlier frame go on with: free ones, then such that have room."""
    last = waiting[0].last
    gains = link.gains([one.masks[last] for one in waiting], here, last, frame)
    free = [number for number in range(len(here)) if number not in taken]
    found = {a: free[b] for a, b in assigned(gains[:, free], link.least)}
    taken |= {number: [waiting[place]] for place, number in found.items()}
    for place, one in enumerate(waiting):
        best = int(gains[place].argmax())
        if place in found or best not in taken or gains[place, best] < link.least or not link.divides:
            continue
        room = here[best].sum() - sum(other.size for other in taken[best])
        if room >= one.size / 2 and all(last in other.masks for other in taken[best]):
            taken[best].append(one)


def _give(part: Mask, several: Sequence[_Instance], frame: int, link: Link, smallest: float) -> None:
    """Gives a part of a frame to an instance, or to several their pieces of it."""
    if len(several) == 1:
        (one,) = several
        one.masks[frame], one.size = part, int(part.sum())
        return
    since = min(one.last for one in several)
    pieces = link.divided(part, [one.masks[since] for one in several], since, frame)
    for one, piece in zip(several, pieces, strict=True):
        if piece.sum() >= max(1, smallest * piece.size):
            one.masks[frame] = piece
            if _at_the_border(piece):
                one.size = min(one.size, int(piece.sum()))


def _at_the_border(mask: Mask) -> bool:
    return bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())
