"""Moving storybook scenes: films of a few frames with exact masks, motions and captions.

One to three objects stand or move on a ground under a sky. They may cross, hide behind each other, enter and leave, and
two of them may be of one noun. Every pixel of every frame belongs to exactly one concept, and a film is a pure function
of its seed. The small video model is trained on the seeds of the `train` split and scored on those of `test`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from conceptlens.bench.datasets._drawing import COLOURS, SceneObject, drawn
from conceptlens.bench.datasets.scenes import (
    GROUNDS,
    IN_SKY,
    NOUNS,
    SKIES,
    SPLITS,
    USUAL,
    Backdrop,
    caption_subjects,
    indefinite,
    join,
    stage,
)
from conceptlens.values.clips import Clip

SIZE = 48
"""Height and width of a frame in pixels."""
FRAMES = 9
"""Frames of a film."""
SIDEWAYS = {"ball": "rolls", "car": "drives", "boat": "sails"} | dict.fromkeys(IN_SKY, "drifts")
"""The verb of each noun that moves to the left or to the right; all others stand."""
UPWARDS = ("sun", "moon", "balloon", "star")
"""What may rise or fall."""
MOTIONS = ("rolls", "drives", "sails", "drifts", "rises", "falls", "left", "right")
"""Words that say how something moves."""


@dataclass(frozen=True)
class MovingObject:
    """One object of a film.

    Attributes:
        noun: what it is.
        colour: a key of `COLOURS`.
        radius: in pixels.
        path: its centre (x, y) in each frame, in pixels; it may lie outside the frame.
        motion: "rolls left", "rises", ...; empty if it stands.
    """

    noun: str
    colour: str
    radius: float
    path: tuple[tuple[float, float], ...]
    motion: str

    def at(self, frame: int) -> SceneObject:
        """The object as it is drawn in a frame."""
        x, y = self.path[frame]
        return SceneObject(self.noun, self.colour, x, y, self.radius)

    @property
    def speed(self) -> float:
        """Pixels per frame."""
        (x0, y0), (x1, y1) = self.path[0], self.path[-1]
        return math.hypot(x1 - x0, y1 - y0) / (len(self.path) - 1)


@dataclass(frozen=True)
class Film:
    """A few frames with their ground truth.

    Attributes:
        frames: (frame, height, width, 3) uint8 RGB.
        labels: (frame, height, width) uint8, an index into `concepts` for each pixel.
        instances: (frame, height, width) int8, an index into `objects` for each pixel; -1 for sky and ground.
        concepts: what the film shows: each noun once, then "sky", then the ground.
        objects: what was drawn, back to front.
        sky: the kind of sky, a key of `SKIES`.
        ground: a key of `GROUNDS`.
        caption: the full description, with all colours and motions.
    """

    seed: int
    frames: np.ndarray
    labels: np.ndarray
    instances: np.ndarray
    concepts: tuple[str, ...]
    objects: tuple[MovingObject, ...]
    sky: str
    ground: str
    caption: str

    @property
    def clip(self) -> Clip:
        """The frames as a video model reads them."""
        return Clip(tuple(Image.fromarray(frame) for frame in self.frames))

    def meet(self, one: int, other: int) -> bool:
        """Whether two of the objects, by their places in `objects`, overlap in some frame."""
        a, b = self.objects[one], self.objects[other]
        return any(math.dist(p, q) < 0.8 * (a.radius + b.radius) for p, q in zip(a.path, b.path, strict=True))

    @property
    def crosses(self) -> bool:
        """Whether any two objects overlap in some frame."""
        return any(self.meet(one, other) for one in range(len(self.objects)) for other in range(one))


def make_film(
    seed: int, *, nouns: tuple[str, ...] | None = None, crossing: bool | None = None, size: int = SIZE
) -> Film:
    """Draws the film of one seed.

    Args:
        seed: any non-negative integer; equal seeds give equal films on every machine.
        nouns: the objects, of which two may be of one noun; chosen by the seed when None.
        crossing: True for a film in which two objects overlap in some frame, False for one in which none do; as it
            comes when None.
        size: height and width in pixels.

    Raises:
        ValueError: for a noun that has no drawing, or objects that cannot be arranged so.
    """
    if nouns is not None and not set(nouns) <= set(NOUNS):
        raise ValueError(f"no drawing of {', '.join(sorted(set(nouns) - set(NOUNS)))}. Known: {', '.join(NOUNS)}")
    rng = np.random.default_rng(seed)
    for _ in range(400):
        chosen = list(nouns) if nouns else _nouns(rng)
        backdrop = Backdrop(
            str(rng.choice(list(SKIES))), str(rng.choice(list(GROUNDS))), float(rng.uniform(0.45, 0.62)) * size
        )
        objects = _arrange(rng, chosen, backdrop.horizon, size)
        if objects is None:
            continue
        film = _render(rng, seed, objects, backdrop, size)
        seen = np.stack([(film.instances == index).sum((1, 2)) for index in range(len(objects))])
        often = (seen >= 0.008 * size * size).sum(1)
        if often.min() >= FRAMES // 2 + 1 and crossing in (None, film.crosses):
            return film
    raise ValueError(f"no room for {', '.join(nouns or ())} in one film")


def films(split: Literal["train", "validation", "test"], limit: int, offset: int = 0) -> Iterator[Film]:
    """The films of one split, in order of their seeds."""
    first = SPLITS[split] + offset
    for seed in range(first, first + limit):
        yield make_film(seed)


def describe_film(film: Film, rng: np.random.Generator) -> str:
    """A true caption at random: objects in any order or some of them; the rest is named or not."""
    objects = caption_subjects(film.objects, film.concepts, rng)
    if isinstance(objects, str):
        return objects
    coloured, moving = rng.random() < 0.85, rng.random() < 0.8
    text = join(rng, [phrase(o, coloured=coloured, moving=moving) for o in objects])
    if rng.random() < 0.5:
        text += f" {rng.choice(['on', 'and'])} {rng.choice(['the ', ''])}{film.ground}"
    if rng.random() < 0.4:
        text += f" under {rng.choice(['a', 'the'])} {film.sky} sky"
    return text


def phrase(item: MovingObject, *, coloured: bool = True, moving: bool = True) -> str:
    """Such as "a red ball rolls left", without its colour or its motion where they are not wanted."""
    named = indefinite(f"{item.colour} {item.noun}" if coloured else item.noun)
    return f"{named} {item.motion}" if moving and item.motion else named


def _nouns(rng: np.random.Generator) -> list[str]:
    count = int(rng.choice([1, 2, 3], p=[0.35, 0.4, 0.25]))
    chosen = [str(noun) for noun in rng.choice(NOUNS, count, replace=False)]
    if count > 1 and rng.random() < 0.2:
        chosen[0] = chosen[1] = str(rng.choice(list(SIDEWAYS)))
    return chosen


def _arrange(rng: np.random.Generator, nouns: list[str], horizon: float, size: int) -> list[MovingObject] | None:
    """Objects back to front; those that stand overlap no other that stands. None where there is no room."""
    placed: list[MovingObject] = []
    for noun in nouns:
        usual = USUAL.get(noun)
        colour = usual if usual and rng.random() < 0.5 and nouns.count(noun) == 1 else str(rng.choice(list(COLOURS)))
        if any(colour == o.colour and noun == o.noun for o in placed):
            return None
        for _ in range(40):
            item = _moving(rng, noun, colour, horizon, size)
            standing = [o for o in placed if not o.motion and not item.motion]
            if all(math.dist(item.path[0], o.path[0]) > 0.8 * (item.radius + o.radius) for o in standing):
                placed.append(item)
                break
        else:
            return None
    return sorted(placed, key=lambda o: (o.noun != "mountain", o.noun not in IN_SKY, o.path[0][1] + o.radius))


def _moving(rng: np.random.Generator, noun: str, colour: str, horizon: float, size: int) -> MovingObject:
    radius = float(rng.uniform(0.23, 0.31) if noun == "mountain" else rng.uniform(0.16, 0.22)) * size
    # Some of those that move sideways come in from outside, or leave.
    x = float(rng.uniform(0.9 * radius, size - 0.9 * radius))
    if noun == "mountain":
        y = horizon - 0.76 * radius
    elif noun in IN_SKY:
        y = float(rng.uniform(radius, max(radius + 1, horizon - 0.7 * radius)))
    else:
        y = float(rng.uniform(horizon - 0.4 * radius, size - 1.1 * radius))
    motion, (dx, dy) = _motion(rng, noun, size)
    steps = np.arange(FRAMES) / (FRAMES - 1) - rng.uniform(0.2, 0.8)
    return MovingObject(noun, colour, radius, tuple((x + dx * float(s), y + dy * float(s)) for s in steps), motion)


def _motion(rng: np.random.Generator, noun: str, size: int) -> tuple[str, tuple[float, float]]:
    """The words of a motion, and how far it goes in the whole film, in pixels."""
    if noun not in SIDEWAYS or rng.random() < 0.25:
        return "", (0.0, 0.0)
    far = float(rng.uniform(0.35, 1.0)) * size
    if noun in UPWARDS and rng.random() < 0.5:
        far *= 0.7
        return ("rises", (0.0, -far)) if rng.random() < 0.5 else ("falls", (0.0, far))
    return (f"{SIDEWAYS[noun]} left", (-far, 0.0)) if rng.random() < 0.5 else (f"{SIDEWAYS[noun]} right", (far, 0.0))


def _render(rng: np.random.Generator, seed: int, objects: list[MovingObject], backdrop: Backdrop, size: int) -> Film:
    empty = stage(rng, backdrop, size)
    concepts = (*dict.fromkeys(o.noun for o in objects), "sky", backdrop.ground)
    below = (np.arange(size) >= backdrop.horizon)[:, None]
    frames, seen = zip(*(drawn(empty, [item.at(frame) for item in objects]) for frame in range(FRAMES)), strict=True)
    instances = np.stack(seen)
    names = np.array([*(concepts.index(item.noun) for item in objects), concepts.index("sky")])
    labels = np.where((instances < 0) & below, len(concepts) - 1, names[instances])
    caption = f"{join(None, [phrase(o) for o in objects])} on the {backdrop.ground} under a {backdrop.sky} sky"
    return Film(
        seed=seed,
        frames=np.stack(frames),
        labels=labels.astype(np.uint8),
        instances=instances.astype(np.int8),
        concepts=concepts,
        objects=tuple(objects),
        sky=backdrop.sky,
        ground=backdrop.ground,
        caption=caption,
    )
