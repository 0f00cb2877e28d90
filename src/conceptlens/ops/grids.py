"""From scores on a token grid to heat maps and masks in pixels."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from conceptlens.values.errors import RecipeError, ScoreError, shown

Threshold = str | float
TINY = 1e-9
"""Keeps sums of scores that may all be zero from dividing by it."""


def resize(
    scores: Float[Tensor, "concept rows cols"], height: int, width: int, mode: str = "bilinear"
) -> Float[Tensor, "concept height width"]:
    """Scores at another resolution; `mode` is "nearest" or "bilinear" (aligned to pixel areas, not corners).

    Equal maps stay equal, and a map stays in its range: a constant one stays constant.
    """
    if mode == "nearest":
        return F.interpolate(scores[None], (height, width), mode=mode)[0]
    # Of many maps in channels-last memory, the first and the last are rounded differently.
    large = F.interpolate(scores.contiguous()[None], (height, width), mode=mode, align_corners=False)[0]
    # The weights of a pixel add up to one only but for rounding.
    return large.clamp(scores.amin((1, 2), keepdim=True), scores.amax((1, 2), keepdim=True))


def check_finite(scores: Tensor) -> Tensor:
    """Scores as they are, none of which is NaN or infinite.

    Raises:
        ScoreError: for scores of a model that computed NaN.
    """
    broken = int((~scores.isfinite()).sum())
    if broken:
        raise ScoreError(
            f"the model gave NaN or infinity in {broken} of {scores.numel()} scores, as half precision does where it "
            "overflows (a black picture). Open it with dtype=torch.bfloat16 or torch.float32; if it stays, its weights "
            "are damaged."
        )
    return scores


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
    raise RecipeError(f"threshold must be 'mean', 'otsu', 'argmax' or a number in 0..1; got {shown(rule)}.")
