"""Where the patches of one frame of a film are in the frames that follow, by the model's own attention between frames.

After DiffTrack (arXiv 2506.17220): queries of one latent frame against the keys of another.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

REACH = 3
"""Latent frames over which patches are matched: so long may a thing be out of sight."""
MOST_CELLS = 1024
"""Cells of a frame beyond which its patches are matched in blocks: a match takes the square of it in memory."""


def cells_of(rows: int, cols: int) -> tuple[int, int]:
    """Rows and columns of the cells in which a patch grid is matched: its patches, or square blocks of them."""
    block = _side(rows, cols)
    return math.ceil(rows / block), math.ceil(cols / block)


def _side(rows: int, cols: int) -> int:
    """Patches along a side of a cell."""
    block = 1
    while math.ceil(rows / block) * math.ceil(cols / block) > MOST_CELLS:
        block += 1
    return block


def frame_matches(
    query: Float[Tensor, "batch head image head_dim"],
    key: Float[Tensor, "batch head image head_dim"],
    grid: tuple[int, int, int],
    reach: int = REACH,
) -> Float[Tensor, "batch gap frame cell cell"]:
    """Where each cell of each latent frame is in the next ones: the mean over heads of softmax(q k / sqrt(d)).

    The softmax is over the patches of the one later frame. Of blocks of patches, the mean over those that look and the
    sum over those that are looked at, so each row sums to one.

    Args:
        query: of the film's patches, frame by frame, after norms and rotation.
        key: likewise.
        grid: latent frames, rows and columns.
        reach: the largest distance between two frames.

    Returns:
        From frame `frame` to frame `frame + gap + 1`; zeros where the film has no such frame.
    """
    frames, rows, cols = grid
    patches, precise = rows * cols, torch.promote_types(query.dtype, torch.float32)
    inside = _blocks(rows, cols).to(query.device, precise)
    looking, apart = inside / inside.sum(dim=1, keepdim=True), min(reach, frames - 1)
    matches = query.new_zeros(len(query), apart, frames, *2 * (len(inside),), dtype=precise)
    for first in range(frames):
        for gap in range(1, min(apart, frames - 1 - first) + 1):
            total = query.new_zeros(len(query), patches, patches, dtype=precise)
            for head in range(query.shape[1]):  # one at a time: the attention between large frames is large
                asked = query[:, head, first * patches : (first + 1) * patches].to(precise)
                there = key[:, head, (first + gap) * patches : (first + gap + 1) * patches].to(precise)
                total += (asked @ there.transpose(1, 2) / math.sqrt(query.shape[-1])).softmax(dim=-1)
            matches[:, gap - 1, first] = looking @ total @ inside.T / query.shape[1]
    return matches


def _blocks(rows: int, cols: int) -> Float[Tensor, "cell patch"]:
    """Which patches each cell holds: 1 where it does."""
    (down, across), block = cells_of(rows, cols), _side(rows, cols)
    place = torch.arange(rows)[:, None] // block * across + torch.arange(cols) // block
    return F.one_hot(place.flatten(), down * across).T.float()


def low_pass(matches: Float[Tensor, "*lead cell"], cells: tuple[int, int]) -> Float[Tensor, "*lead cell"]:
    """Matches blurred over where they lead to, with weights 1 2 1 along rows and columns; each keeps its sum."""
    kernel = matches.new_tensor([1.0, 2.0, 1.0]) / 4
    maps = matches.reshape(-1, 1, *cells)
    blurred = F.conv2d(F.conv2d(maps, kernel.view(1, 1, 3, 1), padding=(1, 0)), kernel.view(1, 1, 1, 3), padding=(0, 1))
    before, after = maps.sum((2, 3), keepdim=True), blurred.sum((2, 3), keepdim=True)
    return (blurred * torch.where(after > 0, before / after, 0)).reshape(matches.shape)


def matched_positions(
    matches: Float[Tensor, "*lead cell"], cells: tuple[int, int], window: int = 1
) -> Float[Tensor, "*lead 2"]:
    """Row and column, in cells, that each match leads to: the mean position around its peak.

    Args:
        matches: of any scale.
        cells: rows and columns.
        window: how far around the peak counts, in cells.
    """
    peak, place = matches.argmax(dim=-1, keepdim=True), torch.arange(matches.shape[-1], device=matches.device)
    row, col = place // cells[1], place % cells[1]
    near = ((row - peak // cells[1]).abs() <= window) & ((col - peak % cells[1]).abs() <= window)
    weights = torch.where(near, matches, 0)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    return torch.stack([(weights * row).sum(-1), (weights * col).sum(-1)], dim=-1)


def shares(mask: Bool[np.ndarray, "height width"], rows: int, cols: int) -> Float[Tensor, " cell"]:
    """Which share of each cell of a patch grid a mask covers."""
    inside = _blocks(rows, cols)
    return inside @ F.adaptive_avg_pool2d(torch.from_numpy(mask)[None].float(), (rows, cols)).flatten() / inside.sum(1)


def on_patches(cells: Float[Tensor, " cell"], rows: int, cols: int) -> Float[Tensor, "rows cols"]:
    """What cells hold, on the patch grid: each patch has the value of its cell."""
    return (_blocks(rows, cols).T @ cells).reshape(rows, cols)


def assigned(gains: Float[np.ndarray, "track part"], least: float) -> list[tuple[int, int]]:
    """Pairs of tracks and parts, each at most once, with the greatest sum of gains; none of a gain below `least`."""
    from scipy.optimize import linear_sum_assignment

    worth = np.where(gains >= least, gains, 0)
    return [(int(a), int(b)) for a, b in zip(*linear_sum_assignment(-worth), strict=True) if gains[a, b] >= least]
