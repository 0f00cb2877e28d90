"""Metrics of segmentation and of scores: pure functions of arrays."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Integer


def average_precision(scores: Float[np.ndarray, "*shape"], truth: Bool[np.ndarray, "*shape"]) -> float:
    """Sum of (R_k - R_{k-1}) P_k over the distinct scores in falling order; NaN without positives.

    >>> round(average_precision(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])), 4)
    0.8333
    """
    hits, count = _ranked(scores, truth)
    if hits[-1] == 0:
        return float("nan")
    recall = np.diff(hits, prepend=0) / hits[-1]
    return float((recall * hits / count).sum())


def pooled_average_precision(
    scores: Float[np.ndarray, "*shape"], truth: Bool[np.ndarray, "*shape"], *, normalize: bool = True
) -> float:
    """Average precision of foreground and background pooled into one problem, as the official scripts compute it.

    Scores `[1 - s, s]` against truth `[not y, y]` (arXiv 2502.04320, column mAP). Without `normalize` the scores enter
    as they are, which the official VOC script does: tiny scores then rank every "background" first, and even a
    constant map reaches 0.69 where a quarter of the image is foreground.

    Computed in float32 like the original: `s` and `1 - s` tie in one precision and not in another, and average
    precision depends on ties.

    Args:
        scores: any range.
        truth: True = foreground; leave void pixels out of both arrays.
        normalize: move the scores to 0..1 by their extremes first. A constant map then says nothing: 0.5.

    >>> same, mask = np.full(4, 0.3), np.array([True, False, False, False])
    >>> pooled_average_precision(same, mask), pooled_average_precision(same, mask, normalize=False)
    (0.5, 0.6875)
    """
    values = scores.astype(np.float32).ravel()
    if normalize:
        low, high = values.min(), values.max()
        if high <= low:
            return 0.5
        values = (values - low) / (high - low)
    pooled = np.concatenate([np.float32(1) - values, values])
    return average_precision(pooled, np.concatenate([~truth.ravel(), truth.ravel()]))


def roc_auc(scores: Float[np.ndarray, "*shape"], truth: Bool[np.ndarray, "*shape"]) -> float:
    """Chance that a positive scores above a negative, ties counting half; NaN without both kinds.

    >>> roc_auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    hits, count = _ranked(scores, truth)
    positives, negatives = hits[-1], count[-1] - hits[-1]
    if positives == 0 or negatives == 0:
        return float("nan")
    misses = count - hits
    widths, heights = np.diff(misses, prepend=0), hits - np.diff(hits, prepend=0) / 2
    return float((widths * heights).sum() / (positives * negatives))


def kendall_tau(
    ours: Float[np.ndarray, "*draw items"], theirs: Float[np.ndarray, " items"]
) -> Float[np.ndarray, "*draw"]:
    """Kendall's tau-b of each list of figures with another, -1..1; NaN where all of one are equal.

    >>> kendall_tau(np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]), np.array([0.1, 0.2, 0.3])).tolist()
    [1.0, -1.0]
    """
    first, second = np.triu_indices(len(theirs), 1)
    mine, other = np.sign(ours[..., first] - ours[..., second]), np.sign(theirs[first] - theirs[second])
    with np.errstate(invalid="ignore"):
        return np.asarray((mine * other).sum(-1) / np.sqrt((mine != 0).sum(-1) * (other != 0).sum()))


@lru_cache(maxsize=1)
def bootstrap_draws(images: int, draws: int = 2000, seed: int = 0) -> Integer[np.ndarray, "draws images"]:
    """Which images each bootstrap draw takes, with replacement; read-only, since it is kept for the next figure."""
    picked = np.random.default_rng(seed).integers(0, images, (draws, images))
    picked.flags.writeable = False
    return picked


def percentile_interval(figures: Float[np.ndarray, " draws"], level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of a figure over bootstrap draws, those without the figure (NaN) left out."""
    low, high = np.nanquantile(figures, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_interval(
    values: Float[np.ndarray, " images"], *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over images."""
    return percentile_interval(values[bootstrap_draws(len(values), draws, seed)].mean(axis=1), level)


def _ranked(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positives, and pixels, at or above each distinct score, highest score first."""
    flat, marked = scores.ravel(), truth.ravel()
    order = np.argsort(-flat, kind="stable")
    ends = np.append(np.nonzero(np.diff(flat[order]))[0], flat.size - 1)
    return np.cumsum(marked[order])[ends], ends + 1
