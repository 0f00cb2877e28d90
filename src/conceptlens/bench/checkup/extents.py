"""Where in its own picture a noun is: what changes when the noun of the prompt changes and the seed stays.

Pictures of one seed are held against each other, neighbourhood by neighbourhood. Where two of the others look the same,
there is what the seed has painted for several nouns: a ground, a sky. The rest is the noun's. In a model whose whole
picture changes with the noun, as large models' do, the whole picture is the noun's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from PIL import Image
from scipy.ndimage import uniform_filter

from conceptlens.bench.checkup.collages import Cell, Collage, Extents
from conceptlens.bench.datasets.base import VOID

CHANGED = 24
"""Levels of 255, in the channel that differs most, the mean over a neighbourhood."""
NEIGHBOURHOOD = 21
"""A neighbourhood is a square with this part of the longer side."""
ALIKE = 2
"""So many other pictures must look the same at a place for it to be nobody's."""
LEAST, MOST = 0.01, 0.6
"""Shares of a picture: below the first nothing in it is its noun's, above the second all of it is."""
SIDE = 256
"""Longer side, in pixels, at which pictures are compared."""
BACKGROUND = -2
"""The label of patches in which no noun is."""
NOUN_SHARE, BACKGROUND_SHARE = 0.5, 0.1
"""A patch is a noun's above the first share of it, the background's below the second; between them it is void."""


def extents_of(pictures: Mapping[Cell, Image.Image]) -> dict[Cell, Bool[np.ndarray, "height width"]]:
    """By cell the pixels of its noun; none of a picture that shows nothing of its own.

    Args:
        pictures: several nouns for each number.
    """
    width, height = next(iter(pictures.values())).size
    scale = min(1.0, SIDE / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    found = {}
    for number in sorted({cell.number for cell in pictures}):
        cells = [cell for cell in pictures if cell.number == number]
        small = [pictures[cell].resize(size, Image.Resampling.BOX) for cell in cells]
        pixels = np.stack([np.asarray(picture, np.int16) for picture in small])
        for row, cell in enumerate(cells):
            found[cell] = _extent(_change(pixels[row], np.delete(pixels, row, axis=0)) > CHANGED)
    return found


def _change(picture: np.ndarray, others: np.ndarray) -> Float[np.ndarray, "height width"]:
    """By how much each neighbourhood differs from those of the other pictures that are most like it."""
    across = 2 * (max(picture.shape) // NEIGHBOURHOOD // 2) + 1
    differences = [uniform_filter(np.abs(picture - other).max(axis=-1).astype(np.float32), across) for other in others]
    return np.sort(differences, axis=0)[min(ALIKE, len(differences)) - 1]


def _extent(changed: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    share = changed.mean()
    if share > MOST:
        return np.ones_like(changed)
    return changed if share >= LEAST else np.zeros_like(changed)


def truth_of(collage: Collage, extents: Extents, rows: int, cols: int) -> Integer[np.ndarray, "rows cols"]:
    """For each patch of a collage the place in `cells` of the noun that fills it, `BACKGROUND` or void."""
    places = torch.from_numpy(collage.places(extents).astype(np.float32))
    shares = F.interpolate(places[None], (rows, cols), mode="area")[0].numpy()
    labels = np.where(shares.sum(axis=0) <= BACKGROUND_SHARE, BACKGROUND, VOID)
    return np.where(shares.max(axis=0) > NOUN_SHARE, shares.argmax(axis=0), labels)
