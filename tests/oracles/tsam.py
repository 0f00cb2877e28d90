"""T-SAM's losses pair by pair, in numpy and float64: slow, and without a line shared with the package."""

from __future__ import annotations

import math

import numpy as np


def fixture() -> tuple[np.ndarray, np.ndarray]:
    """Cross-attention (key 77, 16, 16) and causal text self-attention (77, 77) from sines, for a prompt of 7 tokens."""
    key, y, x = np.meshgrid(np.arange(77), np.arange(16), np.arange(16), indexing="ij")
    logits = 1.5 * np.sin(0.9 * key + 0.35 * y) + 1.2 * np.cos(0.6 * key - 0.45 * x) + 4.0 * (key == 0)
    cross = np.exp(logits) / np.exp(logits).sum(0)
    row, col = np.meshgrid(np.arange(77), np.arange(77), indexing="ij")
    logits = 1.1 * np.sin(1.3 * row + 0.7 * col) + 0.9 * np.cos(0.4 * row - 1.1 * col) + 3.0 * (col == 0)
    text = np.exp(logits) * (col <= row)
    return cross, text / text.sum(1, keepdims=True)


def smooth(image: np.ndarray) -> np.ndarray:
    weights = [math.exp(-(d**2)) for d in (-1, 0, 1)]
    total = sum(weights) ** 2
    rows, cols = image.shape

    def mirror(n: int, size: int) -> int:
        return -n if n < 0 else 2 * (size - 1) - n if n >= size else n

    out = np.zeros_like(image)
    for y in range(rows):
        for x in range(cols):
            for a in (-1, 0, 1):
                for b in (-1, 0, 1):
                    near = image[mirror(y + a, rows), mirror(x + b, cols)]
                    out[y, x] += weights[a + 1] * weights[b + 1] / total * near
    return out


def cosine(u: np.ndarray, v: np.ndarray) -> float:
    return float((u * v).sum() / math.sqrt((u * u).sum() * (v * v).sum()))


def similarities(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """C and S of maps (token, rows, cols); lower triangles."""
    count = len(maps)
    cosines = np.array([[cosine(maps[i], maps[j]) if j <= i else 0.0 for j in range(count)] for i in range(count)])
    return cosines, np.array([row / row.sum() for row in cosines])


def target(text: np.ndarray, gamma: float) -> np.ndarray:
    powered = np.tril(text) ** gamma
    return np.array([row / row.sum() for row in powered])


def losses(maps: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    cosines, similar = similarities(maps)
    count, found = len(maps), {"abs": 0.0, "cos_rows": 0.0, "release_default": 0.0}
    for i in range(1, count):
        upto = slice(0, i + 1)
        found["abs"] += (i + 1) / count * sum(abs(wanted[i, j] - similar[i, j]) for j in range(i + 1))
        found["cos_rows"] += (i + 1) / count * (1 - cosine(wanted[i, upto], similar[i, upto]))
        found["release_default"] += 0.2 * i * (1 - cosine(wanted[i, :i], cosines[i, :i]))
    return found
