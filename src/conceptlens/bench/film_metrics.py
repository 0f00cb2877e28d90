"""Metrics of films: regions and boundaries of masks (DAVIS), identities of tracks (CLEAR MOT, IDF1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy.ndimage import binary_dilation
from scipy.optimize import linear_sum_assignment

Mask = Bool[np.ndarray, "height width"]
Labels = Integer[np.ndarray, "frame height width"]
TOLERANCE = 0.008
"""How far boundaries may be apart, as a share of the frame's diagonal."""
SAME = 0.5
"""Intersection over union from which a track is at an object."""


def region(found: Mask, truth: Mask) -> float:
    """J of DAVIS: intersection over union; 1 where both are empty.

    >>> region(np.array([[True, True, False]]), np.array([[False, True, True]])) == 1 / 3
    True
    """
    union = (found | truth).sum()
    return float((found & truth).sum() / union) if union else 1.0


def boundary(found: Mask, truth: Mask, tolerance: float = TOLERANCE) -> float:
    """F of DAVIS: the harmonic mean of precision and recall of boundary pixels within a tolerance.

    A pixel of one boundary is right where the other has one within a disk of `tolerance` of the diagonal, rounded up
    to pixels. 1 where both boundaries are empty, 0 where one is.
    """
    mine, theirs = contour(found), contour(truth)
    if not mine.any() or not theirs.any():
        return float(mine.any() == theirs.any())
    near = disk(math.ceil(tolerance * math.hypot(*found.shape)))
    precision = (mine & binary_dilation(theirs, near)).sum() / mine.sum()
    recall = (theirs & binary_dilation(mine, near)).sum() / theirs.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def contour(mask: Mask) -> Mask:
    """One-pixel-wide boundaries: pixels that differ from the one to the right, below, or below to the right."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])


def disk(radius: int) -> Bool[np.ndarray, "side side"]:
    """Pixels whose centres are at most `radius` from the middle one."""
    down, across = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return down**2 + across**2 <= radius**2


@dataclass(frozen=True)
class Identities:
    """How well tracks keep to objects.

    Attributes:
        switches: how often an object is at another track than when it last was at one (CLEAR MOT).
        idf1: F1 of the frames in which tracks are at their objects, under the best pairing of whole tracks and objects
            (Ristani et al., 2016); 1 where there are neither.
        matched: share of the frames of objects in which a track is at them.
    """

    switches: int
    idf1: float
    matched: float


def identities(found: Labels, truth: Labels, same: float = SAME) -> Identities:
    """Tracks against objects.

    A track is at an object in a frame where their masks have an intersection over union of at least `same`. In each
    frame pairs are one to one; an object's last track is held while it is there, as CLEAR MOT has it.

    Args:
        found: for each pixel the number of its track, from 1; 0 for none.
        truth: likewise of objects.
        same: what counts as the same place.
    """
    ious = [frame_ious(a, b, int(found.max()), int(truth.max())) for a, b in zip(found, truth, strict=True)]
    switches = matched = 0
    last: dict[int, int] = {}
    for iou in ious:
        pairs = _pairs(iou, last, same)
        switches += sum(last.get(thing, track) != track for thing, track in pairs.items())
        matched += len(pairs)
        last |= pairs
    of_tracks = sum(len(np.unique(frame[frame > 0])) for frame in found)
    of_things = sum(len(np.unique(frame[frame > 0])) for frame in truth)
    together = sum((iou >= same).astype(int) for iou in ious)
    assert isinstance(together, np.ndarray)
    rows, cols = linear_sum_assignment(-together)
    total = of_tracks + of_things
    idf1 = float(2 * together[rows, cols].sum() / total) if total else 1.0
    return Identities(int(switches), idf1, matched / of_things if of_things else 1.0)


def frame_ious(
    found: Integer[np.ndarray, "height width"], truth: Integer[np.ndarray, "height width"], tracks: int, things: int
) -> Float[np.ndarray, "track thing"]:
    """Intersection over union of each track, from 1, with each object, from 1, in one frame."""
    both = np.zeros((tracks + 1, things + 1))
    np.add.at(both, (found.ravel(), truth.ravel()), 1)
    union = both.sum(1)[1:, None] + both.sum(0)[None, 1:] - both[1:, 1:]
    return both[1:, 1:] / np.maximum(union, 1)


def _pairs(iou: Float[np.ndarray, "track thing"], last: dict[int, int], same: float) -> dict[int, int]:
    """By object its track in one frame: those of before where they still hold, then the best of the rest."""
    held = {thing: track for thing, track in last.items() if iou[track, thing] >= same}
    rest = iou.copy()
    rest[list(held.values())] = 0
    rest[:, list(held)] = 0
    rest[rest < same] = 0
    rows, cols = linear_sum_assignment(-rest)
    return held | {int(b): int(a) for a, b in zip(rows, cols, strict=True) if rest[a, b] > 0}


def of_frames(
    metric: Callable[[Mask, Mask], float], found: Labels, truth: Labels, concepts: Sequence[int]
) -> Float[np.ndarray, "concept frame"]:
    """A metric of each concept in each frame; NaN where a frame neither shows it nor was said to."""
    made = np.full((len(concepts), len(truth)), np.nan)
    for row, concept in enumerate(concepts):
        for frame, (a, b) in enumerate(zip(found == concept, truth == concept, strict=True)):
            if a.any() or b.any():
                made[row, frame] = metric(a, b)
    return made
