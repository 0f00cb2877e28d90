"""From a map to the rows that are replaced: those inside it, as many elsewhere, and the highest first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

SHARES = (0.05, 0.1, 0.2, 0.4)
"""Shares of the area at which rows are replaced, the highest of a map first."""
Region = Bool[np.ndarray, "rows cols"]


def inside(scores: Float[np.ndarray, "rows cols"]) -> Region:
    """Where a map is above its own mean, the paper's cut."""
    return scores > scores.astype(np.float64).mean()


def elsewhere(region: Region, rng: np.random.Generator) -> Region:
    """Rows drawn at random from outside a region: as many, or all there are."""
    outside = np.flatnonzero(~region)
    chosen = np.zeros(region.size, bool)
    chosen[rng.permutation(outside)[: region.sum()]] = True
    return chosen.reshape(region.shape)


def highest(scores: Float[np.ndarray, "rows cols"], share: float) -> Region:
    """The `share` of the rows with the highest scores; of equal ones the first in reading order."""
    order = np.argsort(-scores.ravel(), kind="stable")
    chosen = np.zeros(scores.size, bool)
    chosen[order[: round(share * scores.size)]] = True
    return chosen.reshape(scores.shape)


def area_under(shares: Sequence[float], chances: Sequence[float]) -> float:
    """Mean of a curve over shares of the area from 0 to 1, straight between its points."""
    x, y = np.asarray(shares, float), np.asarray(chances, float)
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())
