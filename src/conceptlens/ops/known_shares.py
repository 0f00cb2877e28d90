"""Areas whose share of each patch is known, at the resolution of the picture.

Maps whose means over patches are given and that else are as smooth as can be (Tobler's pycnophylactic interpolation,
JASA 74(367), 1979), but may jump where colours do: a sparse least-squares problem. Its answer is grey between areas. So
pixels then go to areas, as many in each patch as its share says, and the next maps are drawn towards that: threshold
dynamics with known volumes (Jacobs, Merkurjev and Esedoglu, "Auction dynamics", J. Comput. Phys. 354, 2018), here with
a volume for each patch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from conceptlens.ops.grids import TINY, resize
from conceptlens.values.errors import ScoreError

SIDE = 256
"""Longer side, in pixels, at which the picture is looked at; larger ones are shrunk for it."""
STEPS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 3), (3, 0), (3, 3), (3, -3), (0, 7), (7, 0), (5, 5), (5, -5))
"""Rows and columns from a pixel to those that it is compared with; and to those the other way."""
CONTRAST = 2.5
"""Deviation of the weight of colours, in units of CIELAB."""
LEAST = 0.04
"""What the weight of two pixels is at least, for areas whose end no colour shows."""
PULL = 0.1
"""From the second round on, the weight of a pixel's chances in the round before."""
TEMPERATURE = 0.03
"""Of the chances that a pixel belongs to each area."""
TURNS = 50
"""How often the biases of patches are corrected, for shares to fit."""
DESCENTS = (20, 10, 10)
"""Steps of the conjugate gradients in each round."""
RARE = 1e-4
"""Smaller shares count as this one, so that their logarithm is finite."""

Maps = Float[Tensor, "area height width"]


@dataclass(frozen=True)
class _Patches:
    """Which patch each pixel is in, numbered row by row."""

    number: Int[Tensor, "height width"]
    rows: int
    cols: int

    @property
    def sizes(self) -> Float[Tensor, "rows cols"]:
        counts = torch.bincount(self.number.flatten(), minlength=self.rows * self.cols)
        return counts.view(self.rows, self.cols).float()

    def means(self, maps: Maps) -> Float[Tensor, "area rows cols"]:
        sums = maps.new_zeros(len(maps), self.rows * self.cols).index_add_(1, self.number.flatten(), maps.flatten(1))
        return sums.view(-1, self.rows, self.cols) / self.sizes

    def spread(self, values: Float[Tensor, "area rows cols"]) -> Maps:
        return values.flatten(1)[:, self.number]

    def smoothly(self, values: Float[Tensor, "area rows cols"]) -> Maps:
        height, width = self.number.shape
        return resize(values, height, width)


def enlarge_shares(shares: Float[Tensor, "area rows cols"], image: Image.Image) -> Float[Tensor, "area height width"]:
    """The chance of each pixel to belong to each area; most are near 0 or 1, and the outline is at 0.5.

    Args:
        shares: of each patch, how much of it each area covers, 0..1; areas do not overlap, and what they leave belongs
            to none. They are taken to be exact: a model's scores are not.
        image: the picture, in whose colours outlines are looked for.

    Raises:
        ScoreError: for shares below 0, or whose sum is above 1.
    """
    left = 1 - shares.float().sum(dim=0, keepdim=True)
    if not (shares.min() >= -RARE and left.min() >= -RARE):
        raise ScoreError(
            "the shares of a patch must be at least 0 and add up to 1 at most; the smallest is "
            f"{float(shares.min()):.3g}, the largest sum {float(1 - left.min()):.3g}. Masks must not overlap."
        )
    known = torch.cat([shares.float(), left]).clamp_min(0)
    colours = _colours(image, *_small_size(image, shares.shape[1:]))
    patches = _patches(colours.shape[1:], shares.shape[1:])
    links = [torch.exp(-0.5 * (_across(colours, s) / CONTRAST).square().sum(0)) for s in STEPS]
    links = [(link + LEAST) / float(np.hypot(*step)) for link, step in zip(links, STEPS, strict=True)]
    chances, pull = patches.smoothly(known), 0.0
    for number, descents in enumerate(DESCENTS):
        maps = _smoothest(chances, known, links, patches, pull, descents)
        last = number == len(DESCENTS) - 1
        chances = _in_known_shares(_blurred(maps), known, patches, patches.spread if last else patches.smoothly)
        pull = PULL
    return resize(chances[:-1], image.height, image.width)


def _smoothest(
    start: Maps,
    known: Float[Tensor, "area rows cols"],
    links: list[Tensor],
    patches: _Patches,
    pull: float,
    descents: int,
) -> Maps:
    """Maps that change little between linked pixels, keep to the known shares and, by `pull`, near where they start.

    Conjugate gradients, each pixel scaled by the diagonal of the equations.
    """

    def left_side(maps: Maps) -> Maps:
        out = patches.spread(patches.means(maps)) + pull * maps
        for link, step in zip(links, STEPS, strict=True):
            _add_across(out, link * _across(maps, step), step, -1)
        return out

    diagonal = patches.spread(1 / patches.sizes[None])[0] + pull
    for link, step in zip(links, STEPS, strict=True):
        _add_across(diagonal, link, step, 1)
    maps = start.clone()
    rest = patches.spread(known) + pull * start - left_side(maps)
    direction = rest / diagonal
    size = (rest * direction).sum((1, 2), keepdim=True)
    for _ in range(descents):
        turned = left_side(direction)
        stride = size / ((direction * turned).sum((1, 2), keepdim=True) + TINY)
        maps, rest = maps + stride * direction, rest - stride * turned
        scaled = rest / diagonal
        before, size = size, (rest * scaled).sum((1, 2), keepdim=True)
        direction = scaled + size / (before + TINY) * direction
    return maps


def _in_known_shares(
    maps: Maps, known: Float[Tensor, "area rows cols"], patches: _Patches, spread: Callable[[Tensor], Maps]
) -> Maps:
    """Chances of areas that exclude each other, with a bias for each area and patch, so that means are those known."""
    bias = torch.zeros_like(known)
    chances = maps
    for _ in range(TURNS):
        chances = ((maps + spread(bias)) / TEMPERATURE).softmax(dim=0)
        bias += TEMPERATURE * (known.clamp_min(RARE) / patches.means(chances).clamp_min(RARE)).log()
    return chances


def _across(maps: Float[Tensor, "*map height width"], step: tuple[int, int]) -> Tensor:
    """The difference of each pixel from that which is `step` before it, where there is one."""
    later, earlier = _ends(maps, step)
    return later - earlier


def _add_across(maps: Float[Tensor, "*map height width"], values: Tensor, step: tuple[int, int], sign: int) -> None:
    """Adds values to the later pixels of a step and `sign` times them to the earlier ones."""
    later, earlier = _ends(maps, step)
    later += values
    earlier += sign * values


def _ends(maps: Float[Tensor, "*map height width"], step: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Views of the pixels where a step ends and of those where it begins."""
    height, width = maps.shape[-2:]
    down, right = step
    later = maps[..., down:, max(right, 0) : max(0, width + min(right, 0))]
    return later, maps[..., : max(0, height - down), max(-right, 0) : max(0, width - max(right, 0))]


def _blurred(maps: Maps) -> Maps:
    """Means of pixels and their neighbours, weighted 1, 2, 1 along both sides, against areas of single pixels."""
    padded = F.pad(maps, (1, 1, 1, 1), mode="replicate")
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 16


def _small_size(image: Image.Image, grid: torch.Size) -> tuple[int, int]:
    """Height and width at which the picture is looked at: no patch is without a pixel."""
    scale = min(1.0, SIDE / max(image.size))
    return max(grid[0], round(image.height * scale)), max(grid[1], round(image.width * scale))


def _colours(image: Image.Image, height: int, width: int) -> Float[Tensor, "3 height width"]:
    from skimage.color import rgb2lab

    small = image.convert("RGB").resize((width, height), Image.Resampling.BOX)
    return torch.from_numpy(rgb2lab(np.asarray(small, np.float64) / 255)).float().permute(2, 0, 1)


def _patches(size: torch.Size, grid: torch.Size) -> _Patches:
    """Patches that hold the centres of their pixels."""
    row, col = (((torch.arange(n) + 0.5) * count / n).long() for n, count in zip(size, grid, strict=True))
    return _Patches(row[:, None] * grid[1] + col, *grid)
