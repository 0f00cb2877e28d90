"""Is it in the picture at all? Absolute scores, where a softmax over the concepts always names a winner.

A concept is asked alone (`isolate=True`: it reads itself and the image, not the other concepts) and without a
softmax, so its raw scores depend on the picture only. Their scale means nothing by itself, so they are held against
null concepts, words that were asked of the same picture in the same way: at each patch the odds of the concept
against the mean null concept, at the temperature at which the null concepts differ among themselves; of these the
best patches count. A few null concepts that are in the picture do no harm. Raw scores without a softmax are those of
arXiv 2502.04320, equation 9; holding them against null concepts is our own.

What a score means differs from word to word and from block to block. In the last block of the embedded model the
words of things score higher where the thing is, and those of grounds score *lower* in a picture of that ground; in its
middle grounds score higher, so that a mean over blocks tells them no better than guessing. So a model's
`conceptlens.json` can name blocks and hold a curve for each word, of either sign, fitted on pictures of which it is
known what they hold (`benchmarks/presence.py --calibrate`, or `conceptlens checkup --save` on pictures of the model's
own). A word without a curve has no chance but None, "cannot say": one that was never seen absent, such as the embedded
model's sky, or one that the model does not know; unless there is a curve for every word.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.readers.replay import check_picture
from conceptlens.session import Session
from conceptlens.values.errors import ConceptError
from conceptlens.values.records import ImageRecord
from conceptlens.values.words import check_concepts, ranked_words

TOP = 0.02
"""Share of the patches, the highest of a map, whose mean stands for the map; small objects are few patches."""
FEWEST_NULLS = 5


@dataclass(frozen=True)
class Calibration:
    """A logistic curve from scores to chances, fitted on pictures of which it is known what they hold."""

    slope: float
    intercept: float

    def chance(self, score: float) -> float:
        """The chance, 0..1, that a concept with this score is there."""
        return 1 / (1 + math.exp(-min(max(self.slope * score + self.intercept, -500.0), 500.0)))


@dataclass(frozen=True)
class ModelCalibration:
    """What was measured for one model, as its `conceptlens.json` tells it.

    Attributes:
        layers: the blocks whose scores are meant.
        noise: the level at which the pictures were read, with an empty prompt.
        curves: by word.
        every: for all other words; None where there is no such curve.
    """

    layers: tuple[int, ...]
    noise: float
    curves: Mapping[str, Calibration]
    every: Calibration | None = None

    @classmethod
    def of(cls, session: Session) -> ModelCalibration | None:
        """The calibration of a session's model; None for a model without one."""
        stored = session.calibration
        if stored is None:
            return None
        curves = {name: Calibration(*pair) for name, pair in stored["curves"].items()}
        every = Calibration(*stored["every"]) if stored.get("every") else None
        return cls(tuple(stored["layers"]), stored["noise"], curves, every)

    def of_words(self, words: Sequence[str]) -> dict[str, Calibration]:
        """A curve for each word that has one, its own or that of every word."""
        found = {word: self.curves.get(word, self.every) for word in words}
        return {word: curve for word, curve in found.items() if curve is not None}

    def suits(self, record: ImageRecord) -> bool:
        """Whether a record was made as those of the calibration were."""
        alike = record.recipe.noise == self.noise and not record.prompt and not record.steps
        return alike and set(self.layers) <= record.answering_layers


@dataclass(frozen=True)
class Presence:
    """Whether one concept is in a picture.

    Attributes:
        concept: its name.
        score: log odds against the mean null concept, where it fits best; near 0 for a word that fits nowhere better
            than they do.
        chance: 0..1 by the calibration; None, "cannot say", without one.
    """

    concept: str
    score: float
    chance: float | None


def presence(
    session: Session,
    record: ImageRecord,
    concepts: Sequence[str],
    *,
    nulls: Sequence[str] | None = None,
    calibration: Calibration | None = None,
) -> tuple[Presence, ...]:
    """How likely each concept is to be in a recorded picture, each judged on its own.

    Args:
        session: the model.
        record: from `Session.read`, or a painted one.
        concepts: any words; another list does not change a word's score (but for rounding).
        nulls: words to hold them against, most of which are not in the picture; the model's vocabulary, or common
            nouns, when None. A word is never held against itself.
        calibration: from `calibrate`, made with this model, its recipe and these nulls. When None, and no other nulls
            are given, what the model's `conceptlens.json` says of words and of pictures like this one.

    Raises:
        ConceptError: for an unusable list, or fewer than five null concepts.
        RecipeError: for the record of a film.
    """
    check_picture(record, "chances of presence")
    asked = check_concepts(concepts)
    others = _null_concepts(session, nulls, asked)
    names = tuple(dict.fromkeys((*asked, *others)))
    options: dict[str, Any] = {"softmax": False, "isolate": True}
    curves: Mapping[str, Calibration] = {}
    measured = ModelCalibration.of(session)
    if nulls is None and measured is not None and measured.suits(record):
        curves, options["layers"] = measured.of_words(asked), measured.layers
    elif nulls is None and measured is not None and calibration is None:
        warnings.warn(
            f"no chances of presence: they were measured on pictures read at noise {measured.noise:g} without a "
            f"prompt, which this record is not. Read with noise={measured.noise:g}.",
            stacklevel=2,
        )
    if calibration is not None:
        curves = dict.fromkeys(asked, calibration)
    maps = session.probe(record, names, background=False, **options)
    raw = maps.scores.double().numpy()
    null_rows = [names.index(name) for name in others]
    judged = []
    for name in asked:
        row = names.index(name)
        score = standing(raw[row], raw[[other for other in null_rows if other != row]])
        judged.append(Presence(name, score, curves[name].chance(score) if name in curves else None))
    return tuple(judged)


def _null_concepts(session: Session, nulls: Sequence[str] | None, asked: Sequence[str]) -> tuple[str, ...]:
    """The words that others are held against, enough of them for each that is asked."""
    others = check_concepts(ranked_words(session.vocabulary) if nulls is None else nulls)
    for name in asked:
        if len(set(others) - {name}) < FEWEST_NULLS:
            raise ConceptError(
                f"{name!r} needs {FEWEST_NULLS} null concepts beside itself; got {', '.join(others)}. Add some."
            )
    return others


def add_presence(
    session: Session, maps: ConceptMaps, record: ImageRecord | None = None, *, again: bool = True
) -> ConceptMaps:
    """The same maps with the chance of each asked concept to be in the picture, where the model was calibrated.

    Args:
        session: the model.
        maps: of a picture that was read or painted.
        record: of the picture, when it was read. When it does not suit the calibration (painted, another noise level,
            a prompt), the picture is read once more, by one partial forward.
        again: False for maps without chances rather than another reading.
    """
    seen = calibrated_reading(session, maps.image, record, again=again)
    if seen is None:
        return maps
    return replace(maps, presence={each.concept: each.chance for each in presence(session, seen, maps.asked)})


def calibrated_reading(
    session: Session, image: Image.Image, record: ImageRecord | None = None, *, again: bool = True
) -> ImageRecord | None:
    """A record that suits the calibration: `record` if it does, else the picture is read (unless `again` is False).

    None without a calibration, or such a record.
    """
    measured = ModelCalibration.of(session)
    if measured is None or (record is not None and measured.suits(record)):
        return record if measured else None
    return session.read(image, noise=measured.noise, layers=measured.layers) if again else None


def standing(scores: Float[np.ndarray, "rows cols"], nulls: Float[np.ndarray, "null rows cols"]) -> float:
    """Log odds of a raw map against the mean null map, averaged over its best patches.

    What all maps share at a patch, and the unit of the scores, cancel.
    """
    spread = max(float((nulls - nulls.mean(axis=0)).std()), np.finfo(np.float32).tiny)
    gaps = (nulls - scores) / spread
    highest = gaps.max(axis=0)
    odds = -(highest + np.log(np.exp(gaps - highest).mean(axis=0)))
    count = max(1, round(TOP * odds.size))
    return float(np.partition(odds.ravel(), -count)[-count:].mean())


def calibrate(scores: Float[np.ndarray, " pairs"], there: Bool[np.ndarray, " pairs"]) -> Calibration:
    """The logistic curve of greatest likelihood (Newton's method, with a prior of one faint pair for each class).

    Args:
        scores: of pairs of a picture and a concept.
        there: whether the concept is in the picture.

    Raises:
        ConceptError: when all pairs are of one kind.
    """
    if there.all() or not there.any():
        raise ConceptError("calibration needs concepts that are there and concepts that are not. Add the other kind.")
    scale = float(np.abs(scores).max()) or 1.0
    design = np.stack([scores / scale, np.ones(len(scores))], axis=1)
    weights = np.zeros(2)
    for _ in range(50):
        chance = 1 / (1 + np.exp(-np.clip(design @ weights, -500, 500)))
        pull = design.T @ (there - chance) - 1e-3 * weights
        bend = (design * (chance * (1 - chance))[:, None]).T @ design + 1e-3 * np.eye(2)
        step = np.linalg.solve(bend, pull)
        weights = weights + step / max(1.0, float(np.abs(step).max()) / 4)
        if np.abs(step).max() < 1e-9:
            break
    return Calibration(float(weights[0] / scale), float(weights[1]))
