"""Matches between frames, as the text of DiffTrack (arXiv 2506.17220) says them: one patch and one head at a time."""

from __future__ import annotations

import math

import numpy as np


def matches(query: np.ndarray, key: np.ndarray, frames: int, patches: int, first: int, later: int) -> np.ndarray:
    """(patch, patch) of one film: `query` and `key` are (head, frame x patch, dim)."""
    heads, _, dim = query.shape
    found = np.zeros((patches, patches))
    for head in range(heads):
        for here in range(patches):
            asked = query[head, first * patches + here]
            scores = [float(asked @ key[head, later * patches + there]) / math.sqrt(dim) for there in range(patches)]
            powers = [math.exp(score - max(scores)) for score in scores]
            for there in range(patches):
                found[here, there] += powers[there] / sum(powers) / heads
    return found


def blurred(row: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """One match, each cell the weighted mean of its neighbours, scaled back to its sum."""
    weights = {-1: 0.25, 0: 0.5, 1: 0.25}
    grid, made = row.reshape(rows, cols), np.zeros((rows, cols))
    for r in range(rows):
        for c in range(cols):
            for down, a in weights.items():
                for across, b in weights.items():
                    if 0 <= r + down < rows and 0 <= c + across < cols:
                        made[r, c] += a * b * grid[r + down, c + across]
    return (made * grid.sum() / made.sum()).ravel()


def position(row: np.ndarray, rows: int, cols: int, window: int) -> tuple[float, float]:
    """Mean row and column of one match within a window around its peak."""
    peak = int(row.argmax())
    total = down = across = 0.0
    for r in range(rows):
        for c in range(cols):
            if abs(r - peak // cols) <= window and abs(c - peak % cols) <= window:
                weight = float(row[r * cols + c])
                total, down, across = total + weight, down + weight * r, across + weight * c
    return down / total, across / total
