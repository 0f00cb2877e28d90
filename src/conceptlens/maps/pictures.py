"""Colours and contact sheets: heat maps for the eye."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

_HEAT = np.array(
    [(8, 6, 30), (65, 16, 110), (148, 34, 110), (222, 73, 71), (250, 150, 40), (252, 252, 180)], np.float32
)
_PALETTE = np.array(
    [
        (230, 75, 60), (60, 140, 230), (250, 200, 50), (70, 180, 110), (160, 90, 200), (245, 140, 60),
        (80, 205, 215), (240, 130, 185), (150, 160, 60), (120, 100, 80), (110, 125, 150), (205, 205, 205),
    ],
    np.uint8,
)  # fmt: skip
_TILE, _LABEL, _GAP = 256, 26, 8
PAPER, INK = (250, 249, 246), (40, 38, 45)


def palette(count: int) -> UInt8[np.ndarray, "count 3"]:
    """`count` colours that tell concepts apart, no two alike; at most 256."""
    return (_PALETTE if count <= len(_PALETTE) else _long_palette())[:count].copy()


@cache
def _long_palette() -> UInt8[np.ndarray, "256 3"]:
    """Behind the twelve, of a grid of colours always the one that is least like all before it."""
    from skimage.color import rgb2lab

    grid = np.stack(np.meshgrid(*[np.linspace(15, 240, 9)] * 3), axis=-1).reshape(-1, 3).round().astype(np.uint8)
    lab = rgb2lab(grid)
    grid, lab = (part[(lab[:, 0] > 25) & (lab[:, 0] < 90)] for part in (grid, lab))
    chosen = list(_PALETTE)
    nearest = np.linalg.norm(lab[:, None] - rgb2lab(_PALETTE)[None], axis=-1).min(axis=1)
    while len(chosen) < 256:
        farthest = int(nearest.argmax())
        chosen.append(grid[farthest])
        nearest = np.minimum(nearest, np.linalg.norm(lab - lab[farthest], axis=-1))
    return np.array(chosen, np.uint8)


def heat_colours(heat: Float[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """A heat map in 0..1 as RGB: dark violet (0) through red to pale yellow (1)."""
    place = np.clip(heat, 0, 1) * (len(_HEAT) - 1)
    low = np.minimum(place.astype(int), len(_HEAT) - 2)
    share = (place - low)[..., None]
    return np.rint(_HEAT[low] * (1 - share) + _HEAT[low + 1] * share).astype(np.uint8)


def tint(
    image: Image.Image,
    colours: UInt8[np.ndarray, "height width 3"],
    strength: Float[np.ndarray, "height width"],
) -> Image.Image:
    """Colours over a greyed image; `strength` in 0..1 is how much of the colour shows, at least a third."""
    grey = np.asarray(image.convert("L").convert("RGB"), np.float32)
    share = (0.35 + 0.5 * strength)[..., None]
    return Image.fromarray(np.rint(grey * (1 - share) + colours * share).astype(np.uint8))


def contact_sheet(
    tiles: Sequence[tuple[str, Image.Image]], columns: int | None = None, legend: Sequence[str] = ()
) -> Image.Image:
    """Labelled tiles in rows; small images are enlarged in whole steps. A tile named "segmentation" gets the legend."""
    columns = columns or min(len(tiles), 4 if len(tiles) != 5 else 3)
    width, height = tiles[0][1].size
    scale = max(1, _TILE // max(width, height)) if max(width, height) < _TILE else _TILE * 2 / max(width, height)
    scale = min(scale, 1.0) if max(width, height) >= _TILE * 2 else scale
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    rows = math.ceil(len(tiles) / columns)
    names = [name for name in legend if name] if any(name == "segmentation" for name, _ in tiles) else []
    foot = _LABEL if names else 0
    sheet = Image.new("RGB", (columns * (width + _GAP) + _GAP, rows * (height + _LABEL + _GAP) + _GAP + foot), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for number, (name, tile) in enumerate(tiles):
        x = _GAP + number % columns * (width + _GAP)
        y = _GAP + number // columns * (height + _LABEL + _GAP)
        pen.text((x, y + 3), _fit(name, width, font), fill=INK, font=font)
        sheet.paste(tile.resize((width, height), _resampling(tile, width)), (x, y + _LABEL))
    if names:
        _draw_legend(pen, font, names, sheet.height - foot, sheet.width)
    return sheet


def _resampling(tile: Image.Image, width: int) -> Image.Resampling:
    return Image.Resampling.NEAREST if width >= tile.width else Image.Resampling.LANCZOS


def _fit(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    while font.getlength(text) > width and len(text) > 2:
        text = text[:-2].rstrip("…") + "…"
    return text


def _draw_legend(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    names: Sequence[str],
    top: int,
    width: int,
) -> None:
    x = _GAP
    for name, colour in zip(names, palette(len(names)).tolist(), strict=True):
        if x + 24 + font.getlength(name) > width:
            break
        pen.rectangle((x, top + 3, x + 14, top + 17), fill=tuple(colour))
        pen.text((x + 20, top), name, fill=INK, font=font)
        x += int(34 + font.getlength(name))
