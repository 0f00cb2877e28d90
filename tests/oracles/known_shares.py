"""Areas of known shares at pixels, by dense equations and loops over pixels. Slow on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from skimage.color import rgb2lab


@dataclass(frozen=True)
class Settings:
    steps: tuple[tuple[int, int], ...]
    contrast: float
    least: float
    pull: float
    temperature: float
    turns: int
    descents: tuple[int, ...]
    rare: float


def areas_by_loops(
    shares: np.ndarray, pixels: np.ndarray, smoothly: Callable[[np.ndarray], np.ndarray], settings: Settings
) -> np.ndarray:
    """(area, height, width) chances from (area, rows, cols) shares, the area of none included.

    Args:
        shares: their sides divide those of the picture.
        pixels: (height, width, 3), 0..255.
        smoothly: enlarges (area, rows, cols) bilinearly to the picture's size.
        settings: of the algorithm.
    """
    height, width = pixels.shape[:2]
    count, rows, cols = shares.shape
    patch = [(y * rows // height) * cols + x * cols // width for y in range(height) for x in range(width)]
    links = _links(rgb2lab(pixels / 255), settings)
    members = height * width / (rows * cols)
    matrix = np.diag(links.sum(1)) - links
    for one, first in enumerate(patch):
        for other, second in enumerate(patch):
            matrix[one, other] += (first == second) / members
    known = shares.reshape(count, -1)
    chances = smoothly(shares).reshape(count, -1)
    for number, descents in enumerate(settings.descents):
        pull = settings.pull if number else 0.0
        maps = np.empty_like(chances)
        for area in range(count):
            right = known[area, patch] + pull * chances[area]
            maps[area] = _descend(matrix + pull * np.eye(len(matrix)), right, chances[area], descents)
        maps = _blurred(maps.reshape(count, height, width)).reshape(count, -1)
        last = number == len(settings.descents) - 1
        bias = np.zeros_like(known)
        for _ in range(settings.turns):
            spread = bias[:, patch] if last else smoothly(bias.reshape(shares.shape)).reshape(count, -1)
            odds = np.exp((maps + spread) / settings.temperature)
            chances = odds / odds.sum(0)
            for area in range(count):
                for place in range(rows * cols):
                    mean = np.mean([chances[area, p] for p, its in enumerate(patch) if its == place])
                    ratio = max(known[area, place], settings.rare) / max(mean, settings.rare)
                    bias[area, place] += settings.temperature * np.log(ratio)
    return chances.reshape(count, height, width)


def _links(colours: np.ndarray, settings: Settings) -> np.ndarray:
    height, width = colours.shape[:2]
    links = np.zeros((height * width, height * width))
    for y in range(height):
        for x in range(width):
            for down, right in settings.steps:
                if y + down < height and 0 <= x + right < width:
                    apart = ((colours[y, x] - colours[y + down, x + right]) ** 2).sum() / settings.contrast**2
                    weight = (np.exp(-0.5 * apart) + settings.least) / np.hypot(down, right)
                    one, other = y * width + x, (y + down) * width + x + right
                    links[one, other] = links[other, one] = weight
    return links


def _descend(matrix: np.ndarray, right: np.ndarray, start: np.ndarray, descents: int) -> np.ndarray:
    """Conjugate gradients with Jacobi's preconditioner, as in textbooks."""
    x, residual = start.copy(), right - matrix @ start
    scaled = residual / matrix.diagonal()
    direction = scaled.copy()
    for _ in range(descents):
        product = residual @ scaled
        stride = product / (direction @ matrix @ direction)
        x, residual = x + stride * direction, residual - stride * matrix @ direction
        scaled = residual / matrix.diagonal()
        direction = scaled + residual @ scaled / product * direction
    return x


def _blurred(maps: np.ndarray) -> np.ndarray:
    height, width = maps.shape[1:]
    out = np.zeros_like(maps)
    for y in range(height):
        for x in range(width):
            for down, rowwise in ((-1, 1), (0, 2), (1, 1)):
                for right, colwise in ((-1, 1), (0, 2), (1, 1)):
                    near = maps[:, min(max(y + down, 0), height - 1), min(max(x + right, 0), width - 1)]
                    out[:, y, x] += rowwise * colwise * near / 16
    return out
