"""How the objects of the storybook scenes are drawn: into the picture and into the label plane at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw

Number = int | float
Ink = str | tuple[int, int, int]
Points = list[tuple[Number, Number]]
Picture = UInt8[np.ndarray, "size size 3"]
Instances = Int[np.ndarray, "size size"]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (245, 130, 30),
    "yellow": (250, 215, 40),
    "green": (30, 150, 60),
    "blue": (40, 90, 220),
    "purple": (135, 55, 175),
    "pink": (250, 130, 190),
    "white": (245, 245, 245),
}
OVERSAMPLE = 4
_INK = (35, 30, 40)


@dataclass(frozen=True)
class SceneObject:
    """One object: `noun`, `colour`, and its centre and radius in pixels."""

    noun: str
    colour: str
    x: float
    y: float
    radius: float


class Canvas:
    """Draws one object into the picture and into the label plane at once, in units of its radius."""

    def __init__(self, size: int) -> None:
        side = size * OVERSAMPLE
        self.picture = Image.new("RGB", (side, side))
        self.labels = Image.new("L", (side, side))
        self._pen = ImageDraw.Draw(self.picture)
        self._label_pen = ImageDraw.Draw(self.labels)

    def place(self, item: SceneObject, label: int) -> None:
        self._item, self._label = item, label
        self._main = np.array(COLOURS[item.colour], float)

    def _points(self, points: Points) -> Points:
        r, x, y = self._item.radius * OVERSAMPLE, self._item.x * OVERSAMPLE, self._item.y * OVERSAMPLE
        return [(x + px * r, y + py * r) for px, py in points]

    def _ink(self, fill: Ink) -> tuple[int, int, int]:
        if isinstance(fill, tuple):
            return fill
        factor = {"main": 1.0, "dark": 0.62}[fill]
        red, green, blue = (int(v) for v in self._main * factor)
        return red, green, blue

    def polygon(self, points: Points, fill: Ink = "main") -> None:
        placed = self._points(points)
        self._pen.polygon(placed, fill=self._ink(fill), outline=_INK, width=OVERSAMPLE // 2 + 1)
        self._label_pen.polygon(placed, fill=self._label, outline=self._label)

    def ellipse(
        self,
        x: Number,
        y: Number,
        rx: Number,
        ry: Number,
        fill: Ink = "main",
        outline: bool = True,
    ) -> None:
        (x0, y0), (x1, y1) = self._points([(x - rx, y - ry), (x + rx, y + ry)])
        line = _INK if outline else None
        self._pen.ellipse((x0, y0, x1, y1), fill=self._ink(fill), outline=line, width=OVERSAMPLE // 2 + 1)
        self._label_pen.ellipse((x0, y0, x1, y1), fill=self._label)

    def line(self, points: Points, width: float, fill: Ink = _INK) -> None:
        placed = self._points(points)
        thick = max(1, round(width * self._item.radius * OVERSAMPLE))
        self._pen.line(placed, fill=self._ink(fill), width=thick)
        self._label_pen.line(placed, fill=self._label, width=thick)


def drawn(stage: Picture, items: Sequence[SceneObject]) -> tuple[Picture, Instances]:
    """Objects, back to front, on a stage: the picture, and for each pixel which of them is seen, -1 for none."""
    canvas = Canvas(len(stage))
    canvas.picture.paste(Image.fromarray(stage).resize(canvas.picture.size, Image.Resampling.NEAREST))
    for index, item in enumerate(items):
        canvas.place(item, index + 1)
        DRAW[item.noun](canvas)
    labels = np.asarray(canvas.labels)[OVERSAMPLE // 2 :: OVERSAMPLE, OVERSAMPLE // 2 :: OVERSAMPLE]
    return np.asarray(canvas.picture.reduce(OVERSAMPLE)), labels.astype(int) - 1


_WINDOW, _WOOD, _LEAF, _PALE = (255, 240, 160), (120, 75, 40), (25, 95, 40), (250, 240, 225)


def _circle(n: int, radius: float, turn: float = 0.0) -> Points:
    return [
        (radius * math.cos(2 * math.pi * k / n + turn), radius * math.sin(2 * math.pi * k / n + turn)) for k in range(n)
    ]


def _sun(c: Canvas) -> None:
    for x, y in _circle(8, 1.0):
        c.line([(0.5 * x, 0.5 * y), (x, y)], 0.2, "main")
    c.ellipse(0, 0, 0.62, 0.62)


def _moon(c: Canvas) -> None:
    outer = [(math.cos(a), math.sin(a)) for a in np.linspace(0.9, 2 * math.pi - 0.9, 24)]
    inner = [(0.6 + 0.78 * math.cos(a), 0.78 * math.sin(a)) for a in np.linspace(2 * math.pi - 1.45, 1.45, 24)]
    c.polygon(outer + inner)


def _cloud(c: Canvas) -> None:
    lobes = ((-0.65, 0.15, 0.47, 0.42), (0.65, 0.15, 0.47, 0.42), (-0.15, -0.2, 0.55, 0.55), (0.3, 0.0, 0.5, 0.5))
    for lobe in lobes:
        c.ellipse(*lobe)
    for x, y, rx, ry in lobes:
        c.ellipse(x, y, rx - 0.1, ry - 0.1, outline=False)


def _balloon(c: Canvas) -> None:
    c.line([(0, 0.5), (0.12, 0.8), (-0.08, 1.1)], 0.1)
    c.polygon([(0, 0.4), (-0.2, 0.68), (0.2, 0.68)], "dark")
    c.ellipse(0, -0.25, 0.62, 0.75)
    c.ellipse(-0.22, -0.5, 0.12, 0.18, (255, 255, 255), outline=False)


def _star(c: Canvas) -> None:
    tips, dents = _circle(5, 1.0, -math.pi / 2), _circle(5, 0.42, -math.pi / 2 + math.pi / 5)
    c.polygon([p for pair in zip(tips, dents, strict=True) for p in pair])


def _house(c: Canvas) -> None:
    c.polygon([(-0.8, -0.1), (0.8, -0.1), (0.8, 1.0), (-0.8, 1.0)])
    c.polygon([(-1.05, -0.1), (0, -1.0), (1.05, -0.1)], "dark")
    c.polygon([(-0.15, 1.0), (-0.15, 0.4), (0.25, 0.4), (0.25, 1.0)], _WOOD)
    c.polygon([(-0.62, 0.15), (-0.3, 0.15), (-0.3, 0.5), (-0.62, 0.5)], _WINDOW)


def _tree(c: Canvas) -> None:
    c.polygon([(-0.16, 0.1), (0.16, 0.1), (0.2, 1.0), (-0.2, 1.0)], _WOOD)
    for x, y, r in ((-0.4, 0.05, 0.42), (0.4, 0.05, 0.42), (0, -0.45, 0.52)):
        c.ellipse(x, y, r, r)
    for x, y, r in ((-0.4, 0.05, 0.32), (0.4, 0.05, 0.32), (0, -0.45, 0.42), (0, 0, 0.3)):
        c.ellipse(x, y, r, r, outline=False)


def _boat(c: Canvas) -> None:
    c.line([(0, 0.4), (0, -1.0)], 0.12, _WOOD)
    c.polygon([(0.08, -0.95), (0.08, 0.25), (0.8, 0.25)], _PALE)
    c.polygon([(-1.05, 0.35), (1.05, 0.35), (0.65, 0.95), (-0.65, 0.95)])


def _ball(c: Canvas) -> None:
    c.ellipse(0, 0.3, 0.7, 0.7)
    c.polygon([(-0.66, 0.15), (0.66, 0.15), (0.66, 0.45), (-0.66, 0.45)], (250, 250, 250))


def _flower(c: Canvas) -> None:
    c.line([(0, -0.2), (0, 1.0)], 0.16, _LEAF)
    c.ellipse(0.3, 0.65, 0.28, 0.13, _LEAF, outline=False)
    for x, y in _circle(5, 0.46, -math.pi / 2):
        c.ellipse(x, y - 0.4, 0.34, 0.34)
    c.ellipse(0, -0.4, 0.25, 0.25, (255, 225, 90))


def _car(c: Canvas) -> None:
    c.polygon([(-0.55, 0.25), (-0.35, -0.3), (0.4, -0.3), (0.65, 0.25)], "dark")
    c.polygon([(-0.38, 0.2), (-0.25, -0.15), (0.0, -0.15), (0.0, 0.2)], (200, 235, 250))
    c.polygon([(0.1, 0.2), (0.1, -0.15), (0.3, -0.15), (0.45, 0.2)], (200, 235, 250))
    c.polygon([(-1.1, 0.2), (1.1, 0.2), (1.1, 0.75), (-1.1, 0.75)])
    for x in (-0.6, 0.6):
        c.ellipse(x, 0.75, 0.27, 0.27, (60, 60, 65))


def _mushroom(c: Canvas) -> None:
    c.polygon([(-0.25, 0.0), (0.25, 0.0), (0.33, 1.0), (-0.33, 1.0)], _PALE)
    c.polygon([(math.cos(a), 0.1 + 0.9 * math.sin(a)) for a in np.linspace(math.pi, 2 * math.pi, 20)])
    for x, y in ((-0.45, -0.15), (0.05, -0.45), (0.5, -0.1)):
        c.ellipse(x, y, 0.14, 0.14, (255, 255, 255), outline=False)


def _mountain(c: Canvas) -> None:
    c.polygon([(-1.2, 0.8), (-0.1, -1.0), (0.25, -0.5), (0.45, -0.7), (1.2, 0.8)])
    c.polygon([(-0.4, -0.5), (-0.1, -1.0), (0.2, -0.55), (0.0, -0.4), (-0.15, -0.55)], (250, 250, 255))


DRAW: dict[str, Callable[[Canvas], None]] = {
    "sun": _sun,
    "moon": _moon,
    "cloud": _cloud,
    "balloon": _balloon,
    "star": _star,
    "house": _house,
    "tree": _tree,
    "boat": _boat,
    "ball": _ball,
    "flower": _flower,
    "car": _car,
    "mushroom": _mushroom,
    "mountain": _mountain,
}
