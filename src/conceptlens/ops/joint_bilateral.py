"""Maps at the resolution of the picture: scores flow between nearby places of like colour.

Joint bilateral upsampling (Kopf et al., SIGGRAPH 2007) between superpixels instead of pixels, several rounds of it:
a place takes the mean of all others, weighted by how near they are and how alike in colour (CIELAB). Rounds carry
scores along a region, which ends where colours change. Where concepts compete, each round also multiplies by the scores
of the map itself, as mean-field inference in a dense conditional random field does (Krähenbühl and Koltun, 2011).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from conceptlens.ops.grids import TINY, resize

REACH = 2.0
"""Deviation of the spatial weight, in patches."""
CONTRAST = 3.0
"""Deviation of the weight of colours, in units of CIELAB, where 2 is just visible."""
ROUNDS = 6
SHARPENING = 1.3
"""Power of competing scores after each round, so that averages of averages do not become grey."""
PULL = 0.3
"""Power of the map itself, by which competing scores are multiplied in each round."""
SIDE = 256
"""Longer side, in pixels, at which the picture is looked at; larger ones are shrunk for it."""
MOST_PLACES = 4096
"""Pictures of more pixels are cut into half as many superpixels; the weights take 4 bytes for each pair of places."""


@dataclass(frozen=True)
class _Places:
    """The pixels of a small copy of the picture, put together: `number` says which place each belongs to."""

    number: Int[Tensor, "height width"]
    weights: Float[Tensor, "place place"]

    @property
    def count(self) -> int:
        return len(self.weights)

    def means(self, values: Float[Tensor, "concept height width"]) -> Float[Tensor, "concept place"]:
        return _means(values.flatten(1), self.number.flatten(), self.count)

    def spread(self, values: Float[Tensor, "concept place"]) -> Float[Tensor, "concept height width"]:
        return values[:, self.number]


def joint_bilateral(
    scores: Float[Tensor, "concept rows cols"], image: Image.Image, *, compete: bool
) -> Float[Tensor, "concept height width"]:
    """Scores at the size of a picture, which end where its colours do.

    Args:
        scores: on a patch grid.
        image: the picture.
        compete: the scores are chances of concepts that exclude each other, at least 0; each round sharpens them.
    """
    places = _places_of(image, scores.shape[1:])
    height, width = places.number.shape
    flat = places.means(resize(scores.float(), height, width))
    pull = _compete(flat, PULL)
    for _ in range(ROUNDS):
        flat = flat @ places.weights.T
        if compete:
            flat = _compete(flat * pull, SHARPENING)
    return resize(places.spread(flat), image.height, image.width)


def _compete(scores: Float[Tensor, "concept place"], power: float) -> Float[Tensor, "concept place"]:
    raised = scores.clamp_min(TINY) ** power
    return raised / raised.sum(dim=0)


def _means(
    values: Float[Tensor, "concept pixel"], group: Int[Tensor, " pixel"], count: int
) -> Float[Tensor, "concept group"]:
    sums = values.new_zeros(len(values), count).index_add_(1, group, values)
    return sums / torch.bincount(group, minlength=count).clamp_min(1)


def _places_of(image: Image.Image, grid: torch.Size) -> _Places:
    from skimage.color import rgb2lab

    scale = min(1.0, SIDE / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BOX), np.float64) / 255
    number = torch.from_numpy(_superpixels(small))
    colours = torch.from_numpy(rgb2lab(small)).float().permute(2, 0, 1)
    row = ((torch.arange(height) + 0.5) * grid[0] / height)[:, None].expand(height, width)
    col = ((torch.arange(width) + 0.5) * grid[1] / width).expand(height, width)
    features = torch.cat([torch.stack([row, col]) / REACH, colours / CONTRAST])
    flat, count = number.flatten(), int(number.max()) + 1
    centres = _means(features.flatten(1), flat, count).T
    weights = torch.exp(-0.5 * torch.cdist(centres, centres) ** 2) * torch.bincount(flat, minlength=count)
    return _Places(number, weights / weights.sum(dim=1, keepdim=True))


def _superpixels(small: Float[np.ndarray, "height width 3"]) -> Int[np.ndarray, "height width"]:
    """Numbers from 0: of each pixel where there are few, of SLIC's superpixels otherwise."""
    height, width = small.shape[:2]
    if height * width <= MOST_PLACES:
        return np.arange(height * width).reshape(height, width)
    from skimage.segmentation import slic

    parts = slic(small, n_segments=MOST_PLACES // 2, compactness=10, max_num_iter=5, start_label=0)
    return np.unique(parts, return_inverse=True)[1].reshape(height, width)
