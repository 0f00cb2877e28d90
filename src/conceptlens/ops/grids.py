"""From scores on a token grid to heat maps and masks in pixels."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from conceptlens.errors import RecipeError

Threshold = str | float


def resize(
    scores: Float[Tensor, "concept rows cols"], height: int, width: int, mode: str = "bilinear"
) -> Float[Tensor, "concept height width"]:
    """Scores at another resolution; `mode` is "nearest" or "bilinear" (aligned to pixel areas, not corners)."""
    corners = None if mode == "nearest" else False
    return F.interpolate(scores[None], (height, width), mode=mode, align_corners=corners)[0]


def unit_range(scores: Tensor) -> Tensor:
    """Scores moved to 0..1 by their minimum and maximum; a constant map becomes zeros."""
    low, high = scores.min(), scores.max()
    return torch.zeros_like(scores) if high <= low else (scores - low) / (high - low)


def threshold_level(heat: np.ndarray, rule: Threshold) -> float:
    """The value above which (strictly) a pixel belongs to the mask.

    Args:
        heat: a map of any range.
        rule: "mean", "otsu", or a number in 0..1 as a fraction of the map's range.

    Raises:
        RecipeError: for any other rule.
    """
    if rule == "mean":
        return float(heat.mean())
    if rule == "otsu":
        from skimage.filters import threshold_otsu

        return float(threshold_otsu(heat)) if heat.max() > heat.min() else float(heat.max())
    if isinstance(rule, (int, float)) and 0 <= rule <= 1:
        return float(heat.min() + rule * (heat.max() - heat.min()))
    raise RecipeError(f"threshold must be 'mean', 'otsu', 'argmax' or a number in 0..1; got {rule!r}.")
