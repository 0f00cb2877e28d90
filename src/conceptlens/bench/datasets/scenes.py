"""Storybook scenes: a generated dataset with exact masks and captions.

One to four objects from a child's picture book stand on a ground under a sky. Every pixel belongs to exactly one
concept (an object, the sky or the ground), so a scene carries its own ground truth, and a scene is a pure function of
its seed. The demo model is trained on the seeds of the `train` split and scored on those of `test`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from conceptlens.bench.datasets._drawing import COLOURS, SceneObject, drawn

T = TypeVar("T")
SIZE = 64
"""Height and width of a scene in pixels."""

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


USUAL = {"sun": "yellow", "moon": "white", "cloud": "white", "star": "yellow", "tree": "green", "mountain": "purple"}
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
        usual = USUAL.get(noun)
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


@dataclass(frozen=True)
class Backdrop:
    """What is behind the objects; `horizon` is the first row of the ground."""

    sky: str
    ground: str
    horizon: float


def stage(rng: np.random.Generator, backdrop: Backdrop, size: int) -> np.ndarray:
    """The empty stage, (size, size, 3) uint8: a sky gradient and a textured ground."""
    sky, ground, horizon = backdrop.sky, backdrop.ground, backdrop.horizon
    rows = np.arange(size)[:, None, None]
    top, bottom = (np.array(v, float) for v in SKIES[sky])
    pixels = np.broadcast_to(top + (bottom - top) * np.clip(rows / horizon, 0, 1), (size, size, 3)).copy()
    if sky == "night":
        pixels[rng.integers(0, int(horizon), 10), rng.integers(0, size, 10)] = 150
    y, x = np.mgrid[0:size, 0:size]
    phase = rng.uniform(0, 2 * math.pi)
    grain = {
        "grass": 16 * np.sin(2.2 * x + phase) * (rng.random((size, size)) > 0.4),
        "sand": 7 * rng.standard_normal((size, size)),
        "snow": -22.0 * (rng.random((size, size)) > 0.93),
        "sea": 20 * np.sin(0.9 * y + 1.4 * np.sin(0.35 * x + phase)),
    }[ground]
    below = rows[:, 0, 0] >= horizon
    pixels[below] = (np.array(GROUNDS[ground], float) + grain[..., None])[below]
    return np.clip(pixels, 0, 255).astype(np.uint8)


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


def indefinite(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def join(rng: np.random.Generator | None, phrases: list[str]) -> str:
    if len(phrases) > 2 and (rng is None or rng.random() < 0.5):
        return ", ".join(phrases[:-1]) + " and " + phrases[-1]
    return " and ".join(phrases)


def caption_subjects(objects: Sequence[T], concepts: Sequence[str], rng: np.random.Generator) -> str | list[T]:
    """What a caption is of: nothing (10%), one word alone (10%), some of the objects (15%), or all in any order."""
    draw = rng.random()
    if draw < 0.1:
        return ""
    if draw < 0.2:
        return str(rng.choice(concepts))
    shuffled = [objects[i] for i in rng.permutation(len(objects))]
    return shuffled[: rng.integers(1, len(shuffled) + 1)] if draw < 0.35 else shuffled


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """A caption at random: full, without colours, partial, a single word, or empty.

    The parts follow the odds of `caption_subjects`; colours, sky and ground are each named or not.
    """
    objects = caption_subjects(scene.objects, scene.concepts, rng)
    if isinstance(objects, str):
        return objects
    coloured = rng.random() < 0.85
    return _sentence(rng, objects, coloured, scene)


def _sentence(rng: np.random.Generator, objects: list[SceneObject], coloured: bool, scene: Scene) -> str:
    phrases = []
    for item in objects:
        named = f"{item.colour} {item.noun}" if coloured and rng.random() < 0.95 else item.noun
        phrases.append(f"the {named}" if rng.random() < 0.1 else indefinite(named))
    sky = f"{rng.choice(['a', 'the'])} {scene.sky} sky" if rng.random() < 0.8 else str(rng.choice(["the sky", "a sky"]))
    ground = str(rng.choice(["the ", ""])) + scene.ground
    text = join(rng, phrases)
    if len(phrases) > 1 and objects[-1].noun in IN_SKY and rng.random() < 0.4:
        text = join(rng, phrases[:-1]) + " under " + phrases[-1]
    if rng.random() < 0.5:
        text += f" {rng.choice(['on', 'and'])} {ground}"
    if rng.random() < 0.4:
        text += f" {rng.choice(['under', 'and'])} {sky}"
    return text


def make_scene(seed: int, *, nouns: tuple[str, ...] | None = None, size: int = SIZE) -> Scene:
    """Draws the scene of one seed.

    Args:
        seed: any non-negative integer; equal seeds give equal scenes on every machine.
        nouns: the objects to draw, each once; chosen by the seed when None.
        size: height and width in pixels.

    Raises:
        ValueError: for a noun that has no drawing, or stands twice.
    """
    if nouns is not None and not set(nouns) <= set(NOUNS):
        unknown = ", ".join(sorted(set(nouns) - set(NOUNS)))
        raise ValueError(f"no drawing of {unknown}. Known: {', '.join(NOUNS)}")
    if nouns is not None and len(set(nouns)) < len(nouns):
        raise ValueError(f"each noun can be drawn once; got {', '.join(nouns)}")
    rng = np.random.default_rng(seed)
    for _ in range(200):
        count = rng.choice([1, 2, 3, 4], p=[0.3, 0.35, 0.22, 0.13])
        chosen = list(nouns) if nouns else [str(n) for n in rng.choice(NOUNS, count, replace=False)]
        sky, ground = str(rng.choice(list(SKIES))), str(rng.choice(list(GROUNDS)))
        backdrop = Backdrop(sky, ground, rng.uniform(0.45, 0.66) * size)
        placed = _arrange(rng, chosen, backdrop.horizon, size)
        if placed is None:
            continue
        scene = _render(rng, seed, placed, backdrop, size)
        visible = np.bincount(scene.labels.ravel(), minlength=len(scene.concepts))
        if visible.min() >= 0.0088 * size * size:
            return scene
    raise ValueError(f"no room for {', '.join(nouns or ())} in one scene")


def _render(
    rng: np.random.Generator,
    seed: int,
    placed: list[SceneObject],
    backdrop: Backdrop,
    size: int,
) -> Scene:
    picture, seen = drawn(stage(rng, backdrop, size), placed)
    image = picture.astype(float)
    labels = np.where(seen < 0, len(placed), seen)
    labels[(seen < 0) & (np.arange(size) >= backdrop.horizon)[:, None]] = len(placed) + 1
    for index in range(len(placed)):
        _texture(rng, image, labels == index)
    image += 2 * rng.standard_normal(image.shape)
    phrases = [indefinite(f"{o.colour} {o.noun}") for o in placed]
    caption = f"{join(None, phrases)} on the {backdrop.ground} under a {backdrop.sky} sky"
    return Scene(
        seed=seed,
        image=np.clip(image, 0, 255).astype(np.uint8),
        labels=labels.astype(np.uint8),
        concepts=(*(o.noun for o in placed), "sky", backdrop.ground),
        objects=tuple(placed),
        sky=backdrop.sky,
        ground=backdrop.ground,
        caption=caption,
    )


def scenes(split: Literal["train", "validation", "test"], limit: int, offset: int = 0) -> Iterator[Scene]:
    """The scenes of one split, in order of their seeds."""
    first = SPLITS[split] + offset
    for seed in range(first, first + limit):
        yield make_scene(seed)
