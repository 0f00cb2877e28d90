"""Overlapping windows over a picture, and one map of theirs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def window_starts(length: int, window: int, overlap: float) -> tuple[int, ...]:
    """Where windows begin, evenly spread from the start to the end of a side.

    Args:
        length: of the side, at least that of a window.
        window: its length, in the same unit.
        overlap: share of a window, 0 to below 1, that neighbours have in common at least.
    """
    count = math.ceil((length - window) / max(1.0, math.floor(window * (1 - overlap) + 1e-9))) + 1
    return tuple(round(number * (length - window) / max(1, count - 1)) for number in range(count))


def stitched(
    maps: Sequence[Float[Tensor, "concept side side"]], corners: Sequence[tuple[int, int]], rows: int, cols: int
) -> Float[Tensor, "concept rows cols"]:
    """Means of the maps that cover a patch, each weighted by how far its window's nearest sides are.

    Args:
        maps: of square windows of one size, which cover all of the grid.
        corners: row and column of the first patch of each.
        rows: of the whole grid.
        cols: likewise.
    """
    side = maps[0].shape[-1]
    inward = (torch.arange(side) + 0.5) / side
    rise = torch.minimum(inward, 1 - inward)
    taper = rise[:, None] * rise
    total = torch.zeros(rows, cols)
    for row, col in corners:
        total[row : row + side, col : col + side] += taper
    whole = maps[0].new_zeros(len(maps[0]), rows, cols)
    for scores, (row, col) in zip(maps, corners, strict=True):
        inside = (slice(row, row + side), slice(col, col + side))
        whole[:, *inside] += scores * (taper / total[inside])
    return whole
