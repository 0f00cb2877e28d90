"""The refinements of maps, patch by patch and pixel by pixel. Slow on purpose."""

from __future__ import annotations

import math

import numpy as np
from skimage.color import rgb2lab


def weights_by_loops(parts: np.ndarray, power: int) -> np.ndarray:
    """Of (part, concept, patch) scores: max(0, cosine with the sum) ** power, each patch less its mean."""
    centred = np.empty_like(parts)
    for part in range(len(parts)):
        for patch in range(parts.shape[2]):
            centred[part, :, patch] = parts[part, :, patch] - parts[part, :, patch].mean()
    whole = centred.sum(0)
    raw = []
    for part in centred:
        cosine = float((part * whole).sum()) / math.sqrt(float((part**2).sum() * (whole**2).sum()))
        raw.append(max(0.0, cosine) ** power)
    return np.array(raw) / sum(raw)


def head_weighted_by_loops(concepts: np.ndarray, image: np.ndarray, heads: int) -> np.ndarray:
    """Of (concept, dim) and (patch, dim) vectors: heads' dot products, weighted by agreement, times their number."""
    width = concepts.shape[1] // heads
    parts = np.zeros((heads, len(concepts), len(image)))
    for h in range(heads):
        for c, concept in enumerate(concepts):
            for x, patch in enumerate(image):
                parts[h, c, x] = concept[h * width : (h + 1) * width] @ patch[h * width : (h + 1) * width]
    weights = weights_by_loops(parts, 2)
    return np.sum([heads * w * part for w, part in zip(weights, parts, strict=True)], axis=0)


def propagated_by_loops(scores: np.ndarray, query: np.ndarray, key: np.ndarray, sharpness: float) -> np.ndarray:
    """Of (concept, patch) scores: each patch takes the mean over heads of those that it attends to."""
    heads, patches, width = query.shape
    out = np.zeros_like(scores)
    for h in range(heads):
        for x in range(patches):
            raw = [math.exp(sharpness * float(query[h, x] @ key[h, y]) / math.sqrt(width)) for y in range(patches)]
            for y in range(patches):
                out[:, x] += scores[:, y] * raw[y] / sum(raw) / heads
    return out


def without_common_by_loops(scores: np.ndarray) -> np.ndarray:
    """Of (concept, patch) scores: less what the mean of the others explains, and at least zero."""
    out = np.zeros_like(scores)
    for c, own in enumerate(scores):
        mean = np.mean([scores[o] for o in range(len(scores)) if o != c], axis=0)
        scale = float(own @ mean) / float(mean @ mean)
        out[c] = [max(0.0, a - scale * b) for a, b in zip(own, mean, strict=True)]
    return out


def bilateral_by_loops(
    start: np.ndarray, pixels: np.ndarray, patch: tuple[float, float], settings: tuple[float, float, int, float, float]
) -> np.ndarray:
    """Of (concept, height, width) chances at the size of a small picture (0..255), round by round.

    Args:
        start: the enlarged map.
        pixels: (height, width, 3).
        patch: height and width of one in pixels.
        settings: deviations in patches and in CIELAB, rounds, the power of each, and that of the map itself.
    """
    reach, contrast, rounds, power, pull = settings
    colours = rgb2lab(pixels / 255)
    height, width = pixels.shape[:2]
    places = [(y, x) for y in range(height) for x in range(width)]
    now = start / start.sum(0)
    for _ in range(rounds):
        after = np.zeros_like(now)
        for y, x in places:
            total = 0.0
            for v, u in places:
                near = ((y - v) / patch[0]) ** 2 + ((x - u) / patch[1]) ** 2
                alike = float(((colours[y, x] - colours[v, u]) ** 2).sum())
                weight = math.exp(-near / (2 * reach**2) - alike / (2 * contrast**2))
                after[:, y, x] += weight * now[:, v, u]
                total += weight
            mixed = (after[:, y, x] / total * start[:, y, x] ** pull) ** power
            after[:, y, x] = mixed / mixed.sum()
        now = after
    return now
