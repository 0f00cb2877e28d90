"""Presence, calibrated on collages: of each it is known which nouns are in it and which are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from conceptlens.bench.checkup.collages import Cell, Collage
from conceptlens.bench.checkup.extents import Extents
from conceptlens.presence import Calibration, calibrate

FEWEST = 5
"""Collages with a noun, and without it, below which it gets no curve of its own."""


def there(collage: Collage, nouns: Sequence[str], extents: Extents) -> list[bool | None]:
    """For each noun whether a collage shows it; None where that is not sure.

    A noun is sure to be there where its picture shows something of its own, and sure to be absent where each of the
    seeds in the collage would have shown it: a seed that paints grass for everybody shows nothing of the noun grass.
    """
    numbers = {cell.number for cell in collage.cells}
    found: list[bool | None] = []
    for noun in nouns:
        own = next((cell for cell in collage.cells if cell.noun == noun), None)
        seen = [extents[Cell(noun, number)].any() for number in sorted(numbers if own is None else {own.number})]
        found.append((own is not None) if all(seen) else None)
    return found


@dataclass(frozen=True)
class PresenceFit:
    """Curves from presence scores to chances, and how far they hold on collages that they were not fitted on.

    Attributes:
        span: the layers whose scores are meant, by their name.
        layers: the same as numbers.
        noise: of the readings.
        curves: by noun; a noun that is there, or not, in fewer than five collages has none, and no noun has one where
            the curve for every word does better.
        every: one curve for every other word, fitted on all nouns; None where it says no more than guessing.
        brier: mean squared error of curves by noun, 0 the best, each fitted on the other half of the collages.
        every_brier: of `every` for nouns that it was not fitted on.
        guessing: Brier score of the share of nouns that are there, as the chance of all.
    """

    span: str
    layers: tuple[int, ...]
    noise: float
    curves: Mapping[str, Calibration]
    every: Calibration | None
    brier: float
    every_brier: float
    guessing: float

    @property
    def useful(self) -> bool:
        """Whether the chances say more than guessing."""
        return self.every is not None or (bool(self.curves) and self.brier < self.guessing)

    def to_dict(self) -> dict[str, Any]:
        """As `conceptlens.json` holds it."""
        curves = {noun: [round(curve.slope, 4), round(curve.intercept, 4)] for noun, curve in self.curves.items()}
        stored: dict[str, Any] = {"layers": list(self.layers), "noise": self.noise, "curves": curves}
        if self.every is not None:
            stored["every"] = [round(self.every.slope, 4), round(self.every.intercept, 4)]
        return stored


Scores = Float[np.ndarray, "collage noun"]
Truth = Bool[np.ndarray, "collage noun"]


def fit_presence(
    rows: Sequence[Mapping[str, Any]], nouns: Sequence[str], spans: Mapping[str, Sequence[int]]
) -> PresenceFit | None:
    """The best set of layers for presence, by the Brier score on held-out collages; None where nothing can be fitted.

    Args:
        rows: of one noise level.
        nouns: of the checkup.
        spans: sets of layers by name.
    """
    truth = np.array([[np.nan if seen is None else float(seen) for seen in row["there"]] for row in rows])
    sure = np.isfinite(truth)
    if not sure.any() or np.nanmin(truth) == np.nanmax(truth):
        return None
    tables = {name: np.array([row["standings"][name] for row in rows]) for name in spans}
    errors = {name: _held_out(scores, truth, sure) for name, scores in tables.items()}
    best = min(errors, key=lambda name: errors[name])
    scores, share = tables[best], float(truth[sure].mean())
    guessing = float(np.mean((truth[sure] - share) ** 2))
    every, every_brier = _for_every_word(scores, truth, sure)
    own = _curves(scores, truth, sure) if errors[best] < every_brier else {}
    return PresenceFit(
        span=best,
        layers=tuple(spans[best]),
        noise=rows[0]["noise"],
        curves={nouns[column]: curve for column, curve in own.items()},
        every=every if every_brier < guessing else None,
        brier=errors[best],
        every_brier=every_brier,
        guessing=guessing,
    )


def _curves(scores: np.ndarray, truth: np.ndarray, sure: np.ndarray, fewest: int = FEWEST) -> dict[int, Calibration]:
    """By column, where there are enough collages of both kinds."""
    found = {}
    for column in range(truth.shape[1]):
        known = sure[:, column]
        seen = truth[known, column].astype(bool)
        if min(seen.sum(), (~seen).sum()) >= fewest:
            found[column] = calibrate(scores[known, column], seen)
    return found


def _held_out(scores: np.ndarray, truth: np.ndarray, sure: np.ndarray) -> float:
    """Brier score of curves fitted on every other pair of collages, over the others."""
    half = (np.arange(len(truth)) // 2 % 2).astype(bool)
    errors: list[float] = []
    for fitted in (half, ~half):
        curves = _curves(scores[fitted], truth[fitted], sure[fitted], fewest=1)
        share = float(truth[fitted][sure[fitted]].mean()) if sure[fitted].any() else 0.5
        for row in np.nonzero(~fitted)[0].tolist():
            for column in np.nonzero(sure[row])[0].tolist():
                chance = curves[column].chance(scores[row, column]) if column in curves else share
                errors.append((chance - truth[row, column]) ** 2)
    return float(np.mean(errors)) if errors else 1.0


def _for_every_word(scores: np.ndarray, truth: np.ndarray, sure: np.ndarray) -> tuple[Calibration | None, float]:
    """One curve of all nouns, and its Brier score for each noun when fitted on the others."""
    errors: list[np.ndarray] = []
    for column in range(truth.shape[1]):
        others = np.delete(np.arange(truth.shape[1]), column)
        curve = _pooled(scores[:, others], truth[:, others], sure[:, others])
        known = sure[:, column]
        if curve is not None and known.any():
            chances = np.array([curve.chance(score) for score in scores[known, column]])
            errors.append((chances - truth[known, column]) ** 2)
    return _pooled(scores, truth, sure), float(np.concatenate(errors).mean()) if errors else 1.0


def _pooled(scores: np.ndarray, truth: np.ndarray, sure: np.ndarray) -> Calibration | None:
    seen = truth[sure].astype(bool)
    return None if seen.all() or not seen.any() else calibrate(scores[sure], seen)
