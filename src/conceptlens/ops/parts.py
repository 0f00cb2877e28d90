"""The separate parts of a mask: instances of one concept that do not touch."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool


def connected_parts(
    mask: Bool[np.ndarray, "height width"], smallest: float
) -> tuple[Bool[np.ndarray, "height width"], ...]:
    """Connected parts of a mask (pixels that share a side), largest first.

    Args:
        mask: of one concept.
        smallest: share of the picture, 0..1, below which a part is left out.
    """
    from skimage.measure import label

    numbers = np.asarray(label(mask, connectivity=1))
    areas = np.bincount(numbers.ravel())[1:]
    order = np.argsort(-areas, kind="stable")
    return tuple(numbers == number + 1 for number in order if areas[number] >= smallest * mask.size)
