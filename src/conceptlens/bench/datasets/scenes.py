"""Storybook scenes: a generated dataset with exact masks and captions.

One to four objects from a child's picture book stand on a ground under a sky. Every pixel belongs to exactly one
concept (an object, the sky or the ground), so a scene carries its own ground truth, and a scene is a pure function of
its seed. The demo model is trained on the seeds of the `train` split and scored on those of `test`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64
"""Height and width of a scene in pixels."""

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
SKIES: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "blue": ((110, 175, 240), (190, 225, 250)),
    "pink": ((235, 130, 150), (255, 205, 160)),
    "grey": ((130, 135, 145), (190, 192, 198)),
    "night": ((12, 14, 50), (45, 45, 100)),
}
GROUNDS: dict[str, tuple[int, int, int]] = {
    "grass": (105, 175, 75),
    "sand": (225, 195, 135),
    "snow": (228, 236, 245),
    "sea": (30, 110, 150),
}
IN_SKY = ("sun", "moon", "cloud", "balloon", "star")
ON_GROUND = ("house", "tree", "boat", "ball", "flower", "car", "mushroom")
NOUNS = (*IN_SKY, *ON_GROUND, "mountain")
CONCEPTS = (*NOUNS, "sky", *GROUNDS)
"""Every concept that a scene can hold: 13 objects, the sky and 4 grounds."""

SPLITS = {"train": 0, "validation": 10_000_000, "test": 20_000_000}
"""The first seed of each split; a split has ten million seeds."""

_INK = (35, 30, 40)
_OVERSAMPLE = 4


@dataclass(frozen=True)
class SceneObject:
    """One object: `noun`, `colour`, and its centre and radius in pixels."""

    noun: str
    colour: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """One picture with its ground truth.

    Attributes:
        image: (height, width, 3) uint8 RGB.
        labels: (height, width) uint8, an index into `concepts` for each pixel.
        concepts: the names of what is visible: the objects, then "sky", then the ground.
        objects: what was drawn, back to front.
        sky: the kind of sky, a key of `SKIES`.
        ground: a key of `GROUNDS`.
        caption: the full description, with all colours.
    """

    seed: int
    image: np.ndarray
    labels: np.ndarray
    concepts: tuple[str, ...]
    objects: tuple[SceneObject, ...]
    sky: str
    ground: str
    caption: str

    def mask(self, concept: str) -> np.ndarray:
        """The visible pixels of `concept`: (height, width) bool."""
        return self.labels == self.concepts.index(concept)


class _Canvas:
    """Draws one object into the picture and into the label plane at once, in units of its radius."""

    def __init__(self, size: int) -> None:
        side = size * _OVERSAMPLE
        self.picture = Image.new("RGB", (side, side))
        self.labels = Image.new("L", (side, side))
        self._pen = ImageDraw.Draw(self.picture)
        self._label_pen = ImageDraw.Draw(self.labels)

    def place(self, item: SceneObject, label: int) -> None:
        self._item, self._label = item, label
        self._main = np.array(COLOURS[item.colour], float)

    def _points(self, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        r, x, y = self._item.radius * _OVERSAMPLE, self._item.x * _OVERSAMPLE, self._item.y * _OVERSAMPLE
        return [(x + px * r, y + py * r) for px, py in points]

    def _ink(self, fill: str | tuple[int, int, int]) -> tuple[int, int, int]:
        if isinstance(fill, tuple):
            return fill
        factor = {"main": 1.0, "dark": 0.62}[fill]
        red, green, blue = (int(v) for v in self._main * factor)
        return red, green, blue

    def polygon(self, points: list[tuple[float, float]], fill: str | tuple[int, int, int] = "main") -> None:
        placed = self._points(points)
        self._pen.polygon(placed, fill=self._ink(fill), outline=_INK, width=_OVERSAMPLE // 2 + 1)
        self._label_pen.polygon(placed, fill=self._label, outline=self._label)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, fill: str | tuple[int, int, int] = "main", outline: bool = True
    ) -> None:
        (x0, y0), (x1, y1) = self._points([(x - rx, y - ry), (x + rx, y + ry)])
        line = _INK if outline else None
        self._pen.ellipse((x0, y0, x1, y1), fill=self._ink(fill), outline=line, width=_OVERSAMPLE // 2 + 1)
        self._label_pen.ellipse((x0, y0, x1, y1), fill=self._label)

    def line(self, points: list[tuple[float, float]], width: float, fill: str | tuple[int, int, int] = _INK) -> None:
        placed = self._points(points)
        thick = max(1, round(width * self._item.radius * _OVERSAMPLE))
        self._pen.line(placed, fill=self._ink(fill), width=thick)
        self._label_pen.line(placed, fill=self._label, width=thick)


_WINDOW, _WOOD, _LEAF, _PALE = (255, 240, 160), (120, 75, 40), (25, 95, 40), (250, 240, 225)


def _circle(n: int, radius: float, turn: float = 0.0) -> list[tuple[float, float]]:
    return [
        (radius * math.cos(2 * math.pi * k / n + turn), radius * math.sin(2 * math.pi * k / n + turn)) for k in range(n)
    ]


def _sun(c: _Canvas) -> None:
    for x, y in _circle(8, 1.0):
        c.line([(0.5 * x, 0.5 * y), (x, y)], 0.2, "main")
    c.ellipse(0, 0, 0.62, 0.62)


def _moon(c: _Canvas) -> None:
    outer = [(math.cos(a), math.sin(a)) for a in np.linspace(0.9, 2 * math.pi - 0.9, 24)]
    inner = [(0.6 + 0.78 * math.cos(a), 0.78 * math.sin(a)) for a in np.linspace(2 * math.pi - 1.45, 1.45, 24)]
    c.polygon(outer + inner)


def _cloud(c: _Canvas) -> None:
    lobes = ((-0.65, 0.15, 0.47, 0.42), (0.65, 0.15, 0.47, 0.42), (-0.15, -0.2, 0.55, 0.55), (0.3, 0.0, 0.5, 0.5))
    for lobe in lobes:
        c.ellipse(*lobe)
    for x, y, rx, ry in lobes:
        c.ellipse(x, y, rx - 0.1, ry - 0.1, outline=False)


def _balloon(c: _Canvas) -> None:
    c.line([(0, 0.5), (0.12, 0.8), (-0.08, 1.1)], 0.1)
    c.polygon([(0, 0.4), (-0.2, 0.68), (0.2, 0.68)], "dark")
    c.ellipse(0, -0.25, 0.62, 0.75)
    c.ellipse(-0.22, -0.5, 0.12, 0.18, (255, 255, 255), outline=False)


def _star(c: _Canvas) -> None:
    tips, dents = _circle(5, 1.0, -math.pi / 2), _circle(5, 0.42, -math.pi / 2 + math.pi / 5)
    c.polygon([p for pair in zip(tips, dents, strict=True) for p in pair])


def _house(c: _Canvas) -> None:
    c.polygon([(-0.8, -0.1), (0.8, -0.1), (0.8, 1.0), (-0.8, 1.0)])
    c.polygon([(-1.05, -0.1), (0, -1.0), (1.05, -0.1)], "dark")
    c.polygon([(-0.15, 1.0), (-0.15, 0.4), (0.25, 0.4), (0.25, 1.0)], _WOOD)
    c.polygon([(-0.62, 0.15), (-0.3, 0.15), (-0.3, 0.5), (-0.62, 0.5)], _WINDOW)


def _tree(c: _Canvas) -> None:
    c.polygon([(-0.16, 0.1), (0.16, 0.1), (0.2, 1.0), (-0.2, 1.0)], _WOOD)
    for x, y, r in ((-0.4, 0.05, 0.42), (0.4, 0.05, 0.42), (0, -0.45, 0.52)):
        c.ellipse(x, y, r, r)
    for x, y, r in ((-0.4, 0.05, 0.32), (0.4, 0.05, 0.32), (0, -0.45, 0.42), (0, 0, 0.3)):
        c.ellipse(x, y, r, r, outline=False)


def _boat(c: _Canvas) -> None:
    c.line([(0, 0.4), (0, -1.0)], 0.12, _WOOD)
    c.polygon([(0.08, -0.95), (0.08, 0.25), (0.8, 0.25)], _PALE)
    c.polygon([(-1.05, 0.35), (1.05, 0.35), (0.65, 0.95), (-0.65, 0.95)])


def _ball(c: _Canvas) -> None:
    c.ellipse(0, 0.3, 0.7, 0.7)
    c.polygon([(-0.66, 0.15), (0.66, 0.15), (0.66, 0.45), (-0.66, 0.45)], (250, 250, 250))


def _flower(c: _Canvas) -> None:
    c.line([(0, -0.2), (0, 1.0)], 0.16, _LEAF)
    c.ellipse(0.3, 0.65, 0.28, 0.13, _LEAF, outline=False)
    for x, y in _circle(5, 0.46, -math.pi / 2):
        c.ellipse(x, y - 0.4, 0.34, 0.34)
    c.ellipse(0, -0.4, 0.25, 0.25, (255, 225, 90))


def _car(c: _Canvas) -> None:
    c.polygon([(-0.55, 0.25), (-0.35, -0.3), (0.4, -0.3), (0.65, 0.25)], "dark")
    c.polygon([(-0.38, 0.2), (-0.25, -0.15), (0.0, -0.15), (0.0, 0.2)], (200, 235, 250))
    c.polygon([(0.1, 0.2), (0.1, -0.15), (0.3, -0.15), (0.45, 0.2)], (200, 235, 250))
    c.polygon([(-1.1, 0.2), (1.1, 0.2), (1.1, 0.75), (-1.1, 0.75)])
    for x in (-0.6, 0.6):
        c.ellipse(x, 0.75, 0.27, 0.27, (60, 60, 65))


def _mushroom(c: _Canvas) -> None:
    c.polygon([(-0.25, 0.0), (0.25, 0.0), (0.33, 1.0), (-0.33, 1.0)], _PALE)
    c.polygon([(math.cos(a), 0.1 + 0.9 * math.sin(a)) for a in np.linspace(math.pi, 2 * math.pi, 20)])
    for x, y in ((-0.45, -0.15), (0.05, -0.45), (0.5, -0.1)):
        c.ellipse(x, y, 0.14, 0.14, (255, 255, 255), outline=False)


def _mountain(c: _Canvas) -> None:
    c.polygon([(-1.2, 0.8), (-0.1, -1.0), (0.25, -0.5), (0.45, -0.7), (1.2, 0.8)])
    c.polygon([(-0.4, -0.5), (-0.1, -1.0), (0.2, -0.55), (0.0, -0.4), (-0.15, -0.55)], (250, 250, 255))


_DRAW: dict[str, Callable[[_Canvas], None]] = {
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
_USUAL = {"sun": "yellow", "moon": "white", "cloud": "white", "star": "yellow", "tree": "green", "mountain": "purple"}
"""Half of these objects have their usual colour, so that a caption without colours is not a lottery."""


def _place(rng: np.random.Generator, noun: str, horizon: float, size: int) -> tuple[float, float, float]:
    if noun == "mountain":
        radius = rng.uniform(0.23, 0.31) * size
        return rng.uniform(radius, size - radius), horizon - 0.76 * radius, radius
    radius = rng.uniform(0.155, 0.22) * size
    x = rng.uniform(radius, size - radius)
    if noun in IN_SKY:
        return x, rng.uniform(radius, max(radius + 1, horizon - 0.8 * radius)), radius
    return x, rng.uniform(horizon - 0.5 * radius, size - 1.1 * radius), radius


def _arrange(rng: np.random.Generator, nouns: list[str], horizon: float, size: int) -> list[SceneObject] | None:
    placed: list[SceneObject] = []
    for noun in nouns:
        usual = _USUAL.get(noun)
        colour = usual if usual and rng.random() < 0.5 else str(rng.choice(list(COLOURS)))
        for _ in range(40):
            x, y, radius = _place(rng, noun, horizon, size)
            near = 0.55 if noun == "mountain" else 0.78
            if all(math.hypot(x - o.x, y - o.y) > near * (radius + o.radius) for o in placed):
                placed.append(SceneObject(noun, colour, x, y, radius))
                break
        else:
            return None
    return sorted(placed, key=lambda o: (o.noun != "mountain", o.noun not in IN_SKY, o.y + o.radius))


def _backdrop(rng: np.random.Generator, sky: str, ground: str, horizon: float, size: int) -> np.ndarray:
    """The empty stage, (size, size, 3) float in 0..255: a sky gradient and a textured ground."""
    rows = np.arange(size)[:, None, None]
    top, bottom = (np.array(v, float) for v in SKIES[sky])
    stage = np.broadcast_to(top + (bottom - top) * np.clip(rows / horizon, 0, 1), (size, size, 3)).copy()
    if sky == "night":
        stage[rng.integers(0, int(horizon), 10), rng.integers(0, size, 10)] = 150
    y, x = np.mgrid[0:size, 0:size]
    phase = rng.uniform(0, 2 * math.pi)
    grain = {
        "grass": 16 * np.sin(2.2 * x + phase) * (rng.random((size, size)) > 0.4),
        "sand": 7 * rng.standard_normal((size, size)),
        "snow": -22.0 * (rng.random((size, size)) > 0.93),
        "sea": 20 * np.sin(0.9 * y + 1.4 * np.sin(0.35 * x + phase)),
    }[ground]
    below = rows[:, 0, 0] >= horizon
    stage[below] = (np.array(GROUNDS[ground], float) + grain[..., None])[below]
    return stage


def _texture(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray) -> None:
    """Multiplies one object's pixels by a plain, striped or speckled pattern, in place."""
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]]
    kind = rng.integers(0, 4)
    if kind == 1:
        pattern = 1 - 0.11 * (((x + y) // 2) % 2)
    elif kind == 2:
        pattern = 1 - 0.13 * (rng.random(mask.shape) > 0.8)
    else:
        pattern = 1 - 0.04 * rng.random(mask.shape)
    image[mask] *= pattern[mask][:, None]


def _indefinite(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _join(rng: np.random.Generator | None, phrases: list[str]) -> str:
    if len(phrases) > 2 and (rng is None or rng.random() < 0.5):
        return ", ".join(phrases[:-1]) + " and " + phrases[-1]
    return " and ".join(phrases)


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """A caption at random: full, without colours, partial, a single word, or empty.

    The parts follow fixed odds (10% empty, 10% one word, 15% a subset of the objects, the rest all objects);
    colours, sky and ground are each named or not.
    """
    draw = rng.random()
    if draw < 0.1:
        return ""
    if draw < 0.2:
        return str(rng.choice(scene.concepts))
    objects = [scene.objects[i] for i in rng.permutation(len(scene.objects))]
    if draw < 0.35:
        objects = objects[: rng.integers(1, len(objects) + 1)]
    coloured = rng.random() < 0.75
    return _sentence(rng, objects, coloured, scene)


def _sentence(rng: np.random.Generator, objects: list[SceneObject], coloured: bool, scene: Scene) -> str:
    phrases = []
    for item in objects:
        named = f"{item.colour} {item.noun}" if coloured and rng.random() < 0.9 else item.noun
        phrases.append(f"the {named}" if rng.random() < 0.1 else _indefinite(named))
    sky = f"{rng.choice(['a', 'the'])} {scene.sky} sky" if rng.random() < 0.8 else str(rng.choice(["the sky", "a sky"]))
    ground = str(rng.choice(["the ", ""])) + scene.ground
    text = _join(rng, phrases)
    if len(phrases) > 1 and objects[-1].noun in IN_SKY and rng.random() < 0.4:
        text = _join(rng, phrases[:-1]) + " under " + phrases[-1]
    if rng.random() < 0.5:
        text += f" {rng.choice(['on', 'and'])} {ground}"
    if rng.random() < 0.4:
        text += f" {rng.choice(['under', 'and'])} {sky}"
    return text


def make_scene(seed: int, *, nouns: tuple[str, ...] | None = None, size: int = SIZE) -> Scene:
    """Draws the scene of one seed.

    Args:
        seed: any non-negative integer; equal seeds give equal scenes on every machine.
        nouns: the objects to draw; chosen by the seed when None.
        size: height and width in pixels.

    Raises:
        ValueError: for a noun that has no drawing.
    """
    if nouns is not None and not set(nouns) <= set(NOUNS):
        unknown = ", ".join(sorted(set(nouns) - set(NOUNS)))
        raise ValueError(f"no drawing of {unknown}. Known: {', '.join(NOUNS)}")
    rng = np.random.default_rng(seed)
    for _ in range(200):
        count = rng.choice([1, 2, 3, 4], p=[0.3, 0.35, 0.22, 0.13])
        chosen = list(nouns) if nouns else [str(n) for n in rng.choice(NOUNS, count, replace=False)]
        sky, ground = str(rng.choice(list(SKIES))), str(rng.choice(list(GROUNDS)))
        horizon = rng.uniform(0.45, 0.66) * size
        placed = _arrange(rng, chosen, horizon, size)
        if placed is None:
            continue
        scene = _render(rng, seed, placed, sky, ground, horizon, size)
        visible = np.bincount(scene.labels.ravel(), minlength=len(scene.concepts))
        if visible.min() >= 0.0088 * size * size:
            return scene
    raise ValueError(f"no room for {', '.join(nouns or ())} in one scene")


def _render(
    rng: np.random.Generator,
    seed: int,
    placed: list[SceneObject],
    sky: str,
    ground: str,
    horizon: float,
    size: int,
) -> Scene:
    backdrop = _backdrop(rng, sky, ground, horizon, size)
    canvas = _Canvas(size)
    enlarged = Image.fromarray(np.clip(backdrop, 0, 255).astype(np.uint8)).resize(
        canvas.picture.size, Image.Resampling.NEAREST
    )
    canvas.picture.paste(enlarged)
    for index, item in enumerate(placed):
        canvas.place(item, index + 1)
        _DRAW[item.noun](canvas)
    image = np.asarray(canvas.picture.reduce(_OVERSAMPLE), float).copy()
    drawn = np.asarray(canvas.labels)[_OVERSAMPLE // 2 :: _OVERSAMPLE, _OVERSAMPLE // 2 :: _OVERSAMPLE]
    labels = np.where(drawn > 0, drawn.astype(int) - 1, len(placed))
    labels[(drawn == 0) & (np.arange(size) >= horizon)[:, None]] = len(placed) + 1
    for index in range(len(placed)):
        _texture(rng, image, labels == index)
    image += 2 * rng.standard_normal(image.shape)
    phrases = [_indefinite(f"{o.colour} {o.noun}") for o in placed]
    caption = f"{_join(None, phrases)} on the {ground} under a {sky} sky"
    return Scene(
        seed=seed,
        image=np.clip(image, 0, 255).astype(np.uint8),
        labels=labels.astype(np.uint8),
        concepts=(*(o.noun for o in placed), "sky", ground),
        objects=tuple(placed),
        sky=sky,
        ground=ground,
        caption=caption,
    )


def scenes(split: Literal["train", "validation", "test"], limit: int, offset: int = 0) -> Iterator[Scene]:
    """The scenes of one split, in order of their seeds."""
    first = SPLITS[split] + offset
    for seed in range(first, first + limit):
        yield make_scene(seed)
