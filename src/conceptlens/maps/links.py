"""Which instance of one frame is which of the next: by the model's own matches, or by where masks overlap."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from conceptlens.ops.grids import resize
from conceptlens.ops.tracks import REACH, assigned, cells_of, low_pass, on_patches, shares

Mask = Bool[np.ndarray, "height width"]
Linking = Literal["match", "overlap"]
LEAST_LIFT = 1.5
"""How much more of an instance's match must end in another than in any area of that size."""
FARTHEST = 0.25
"""Share of the frame's diagonal that centres may move from one frame to the next, by overlap alone."""


class Link(ABC):
    """Says how well instances of an earlier frame fit those of a later one.

    Attributes:
        least: the gain below which they are never one.
    """

    least: float

    @abstractmethod
    def reaches(self, first: int, later: int) -> bool:
        """Whether two frames can be compared."""

    @abstractmethod
    def gains(
        self, masks: Sequence[Mask], parts: Sequence[Mask], first: int, later: int
    ) -> Float[np.ndarray, "mask part"]:
        """How well each mask of frame `first` fits each part of frame `later`."""

    def divided(self, part: Mask, masks: Sequence[Mask], first: int, later: int) -> list[Mask] | None:
        """One part of frame `later` cut into what belongs to each mask of frame `first`; None where nobody knows."""
        return None


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


def linked(parts: Sequence[Sequence[Mask]], link: Link, smallest: float) -> list[dict[int, Mask]]:
    """Instances over all frames: for each the frames that show it, and its mask there.

    Those seen last are linked first; what was out of sight takes what is left. A part in which two instances end that
    were apart before, and which has room for both, is divided between them.

    Args:
        parts: of each frame the masks of its instances.
        link: how they are compared.
        smallest: share of the frame below which a piece of a divided part is none.
    """
    tracks: list[dict[int, Mask]] = []
    for frame, here in enumerate(parts):
        free, taken = list(range(len(here))), {}
        for last in range(frame - 1, -1, -1):
            waiting = [n for n, track in enumerate(tracks) if max(track) == last]
            if not link.reaches(last, frame) or not here:
                break
            if not waiting or (not free and last < frame - 1):
                continue
            masks = [tracks[n][last] for n in waiting]
            gains = link.gains(masks, here, last, frame)
            found = assigned(gains[:, free], link.least)
            owners = {waiting[a]: free[b] for a, b in found}
            taken |= owners
            if last == frame - 1:
                taken |= _sharing(waiting, masks, gains, owners, here, link.least)
            free = [b for b in free if b not in taken.values()]
        _take(tracks, taken, here, frame, link, smallest)
        tracks += [{frame: here[b]} for b in free]
    return tracks


def _sharing(
    waiting: Sequence[int],
    masks: Sequence[Mask],
    gains: Float[np.ndarray, "mask part"],
    owners: dict[int, int],
    here: Sequence[Mask],
    least: float,
) -> dict[int, int]:
    """Tracks left over whose part went to another, and has room for them too: for more than half of what they were."""
    room = {b: float(here[b].sum()) for b in owners.values()}
    for n, b in owners.items():
        room[b] -= masks[waiting.index(n)].sum()
    shared = {}
    for place, n in enumerate(waiting):
        b = int(gains[place].argmax())
        if n in owners or b not in room or gains[place, b] < least or room[b] < masks[place].sum() / 2:
            continue
        shared[n] = b
        room[b] -= masks[place].sum()
    return shared


def _take(
    tracks: list[dict[int, Mask]],
    taken: dict[int, int],
    here: Sequence[Mask],
    frame: int,
    link: Link,
    smallest: float,
) -> None:
    """Gives each track its part of a frame, or its piece of one."""
    for b in sorted(set(taken.values())):
        several = [n for n, part in taken.items() if part == b]
        pieces = None
        if len(several) > 1:
            pieces = link.divided(here[b], [tracks[n][frame - 1] for n in several], frame - 1, frame)
        if pieces is None:
            tracks[several[0]][frame] = here[b]
            continue
        for n, piece in zip(several, pieces, strict=True):
            if piece.sum() >= smallest * piece.size and piece.any():
                tracks[n][frame] = piece
