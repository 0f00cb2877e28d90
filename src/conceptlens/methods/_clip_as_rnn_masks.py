"""From activation maps to masks and marked pictures: affinity, boxes, visual prompts, the optional CRF."""

from __future__ import annotations

import importlib.util

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from skimage.draw import ellipse_perimeter
from skimage.measure import label, regionprops
from torch import Tensor

from conceptlens.methods.clip_models import stretch
from conceptlens.values.errors import RecipeError

_BLUR = 15
_RED = (255, 0, 0)


def affinity(attention: Float[Tensor, "patch patch"]) -> Float[Tensor, "patch patch"]:
    """Attention made (nearly) doubly stochastic by three rounds of scaling, then symmetric, then squared."""
    matrix = attention
    for _ in range(3):
        matrix = matrix / matrix.sum(dim=0, keepdim=True)
        matrix = matrix / matrix.sum(dim=1, keepdim=True)
    symmetric = (matrix + matrix.T) / 2
    return symmetric @ symmetric


def boxes(values: Float[Tensor, "rows cols"], threshold: float) -> Bool[Tensor, "rows cols"]:
    """The bounding boxes of all regions above `threshold` of the maximum; nothing for a map of zeros."""
    inside = torch.zeros(values.shape, dtype=torch.bool)
    regions = label((values > threshold * values.max()).cpu().numpy(), connectivity=2)
    for region in regionprops(regions):
        top, left, bottom, right = region.bbox
        inside[top:bottom, left:right] = True
    return inside.to(values.device)


def refine(
    cams: Float[Tensor, "query rows cols"], matrix: Float[Tensor, "patch patch"], threshold: float
) -> Float[Tensor, "query rows cols"]:
    """Each map spread along the affinity, from within its own boxes, in 0..1."""
    seeds = [(cam * boxes(cam, threshold)).flatten() for cam in cams]
    return torch.stack([stretch(matrix @ seed).unflatten(0, cams.shape[1:]) for seed in seeds])


def visual_prompt(
    picture: UInt8[Tensor, "rows cols 3"], mask: Bool[Tensor, "rows cols"], *, over: bool = False
) -> UInt8[Tensor, "rows cols 3"]:
    """The mask as it is, the rest blurred (15 x 15 mean), and a red ellipse in the mask's bounding box, one pixel wide.

    The ellipse passes behind the mask, whose pixels stay as they are; with `over` it is drawn on top, as in the
    official code.
    """
    channels = picture.permute(2, 0, 1)[None].float()
    padded = F.pad(channels, (_BLUR // 2,) * 4, mode="reflect")
    blurred = F.avg_pool2d(padded, _BLUR, stride=1)[0].permute(1, 2, 0).round().to(torch.uint8)
    marked = torch.where(mask[..., None], picture, blurred)
    if mask.any():
        rows, cols = (mask.any(dim=axis).nonzero()[:, 0] for axis in (1, 0))
        middle = [int(line[0] + line[-1]) // 2 for line in (rows, cols)]
        radii = [max(1, int(line[-1] - line[0]) // 2) for line in (rows, cols)]
        line = np.zeros(mask.shape, bool)
        line[ellipse_perimeter(*middle, *radii, shape=line.shape)] = True
        drawn = torch.from_numpy(line).to(mask.device)
        marked[drawn if over else drawn & ~mask] = marked.new_tensor(_RED)
    return marked


def check_crf() -> None:
    """Raises `RecipeError` when pydensecrf is not installed."""
    if importlib.util.find_spec("pydensecrf") is None:
        raise RecipeError(
            "crf=True needs the package pydensecrf, which is not installed. Install it, or leave crf out."
        )


def dense_crf(
    maps: Float[Tensor, "query rows cols"], picture: UInt8[Tensor, "rows cols 3"]
) -> Float[Tensor, "query rows cols"]:
    """Label probabilities after ten rounds of a dense CRF; the background is 1 - the largest map."""
    from pydensecrf.densecrf import DenseCRF2D  # type: ignore[import-not-found]
    from pydensecrf.utils import unary_from_softmax  # type: ignore[import-not-found]

    values = maps.cpu().numpy()
    chances = np.concatenate([1 - values.max(axis=0, keepdims=True), values])
    count, rows, cols = chances.shape
    field = DenseCRF2D(cols, rows, count)
    field.setUnaryEnergy(unary_from_softmax(chances))
    field.addPairwiseGaussian(sxy=1, compat=3)
    image = np.ascontiguousarray(picture.cpu().numpy())
    field.addPairwiseBilateral(sxy=67, srgb=3, rgbim=image, compat=4)
    refined = np.asarray(field.inference(10), np.float32).reshape(count, rows, cols)
    return torch.from_numpy(refined[1:])
