"""Masks that end where the picture does: a map is coarse, the picture is not.

Random walker segmentation (Grady, IEEE TPAMI 28(11), 2006; scikit-image's): the surest pixels of each region keep
their label, every other pixel gets that of the region it is reached from most easily without crossing an edge. Of what
scikit-image offers, averaging over superpixels (Felzenszwalb, SLIC) gained less; it has no guided filter.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image

from conceptlens.ops.grids import resize

KEPT = 0.3
"""Share of each region's pixels, the surest, that keep their label."""
STIFFNESS = 1000.0
"""How much an edge hinders (beta of the random walker)."""
SIDE = 256
"""Longer side at which edges are looked for; a walk takes about a second there. Larger pictures are shrunk for it."""

Labels = Int[np.ndarray, "height width"]


def follow_edges(labels: Labels, sureness: Float[np.ndarray, "height width"], image: Image.Image) -> Labels:
    """Labels moved to the edges of the picture.

    Args:
        labels: a region's number for each pixel.
        sureness: how surely, in any unit.
        image: the picture, of the same size.
    """
    scale = min(1.0, SIDE / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BOX), np.float64) / 255
    numbers, regions = np.unique(_sampled(labels, height, width), return_inverse=True)
    if len(numbers) < 2:
        return labels
    regions, sure = regions.reshape(height, width), _sampled(sureness, height, width)
    seeds = np.zeros((height, width), np.int64)
    for number in range(len(numbers)):
        region = regions == number
        seeds[region & (sure >= np.quantile(sure[region], 1 - KEPT))] = number + 1
    if (seeds > 0).all() or small.std() == 0:
        return labels
    from skimage.segmentation import random_walker

    chances = random_walker(small, seeds, beta=STIFFNESS, mode="bf", return_full_prob=True, channel_axis=-1)
    large = resize(torch.from_numpy(np.asarray(chances, np.float32)), image.height, image.width)
    return numbers[large.argmax(dim=0).numpy()]


def _sampled(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Values at the centres of a coarser grid."""
    rows = ((np.arange(height) + 0.5) * values.shape[0] / height).astype(int)
    cols = ((np.arange(width) + 0.5) * values.shape[1] / width).astype(int)
    return values[np.ix_(rows, cols)]
