"""Pixel counts that add up: over the images of a run, over the parts of a run, over bootstrap draws.

Every dataset-level ("micro") metric is a function of such sums. An array of counts may hold one image, or one row per
image, so that a bootstrap draw is a weighted sum of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Integer

from conceptlens.bench.datasets.base import VOID

Void = Literal["ignored", "wrong"]
BinaryIoU = Literal["standard", "paired"]
BINARY_FIELDS = ("tp", "fp", "fn", "tn", "void", "void_predicted")


@dataclass(frozen=True)
class BinaryCounts:
    """Foreground against background.

    Attributes:
        tp, fp, fn, tn: pixels by truth and prediction; void pixels are in none of them.
        void: pixels without a label.
        void_predicted: those of them that were predicted foreground.
    """

    tp: int | float
    fp: int | float
    fn: int | float
    tn: int | float
    void: int | float = 0
    void_predicted: int | float = 0

    @classmethod
    def of(
        cls, predicted: Bool[np.ndarray, "height width"], labels: Integer[np.ndarray, "height width"]
    ) -> BinaryCounts:
        """Counts of one image; `labels` holds 1 for foreground, 0 for background, -1 for void."""
        void, truth = labels == VOID, labels == 1
        valid = ~void
        return cls(
            tp=int((predicted & truth).sum()),
            fp=int((predicted & valid & ~truth).sum()),
            fn=int((~predicted & truth).sum()),
            tn=int((~predicted & valid & ~truth).sum()),
            void=int(void.sum()),
            void_predicted=int((predicted & void).sum()),
        )

    def __add__(self, other: BinaryCounts) -> BinaryCounts:
        return BinaryCounts(*(getattr(self, n) + getattr(other, n) for n in BINARY_FIELDS))

    def accuracy(self, void: Void = "ignored") -> float:
        """Share of right pixels.

        "wrong" is what the official VOC script computes: a void pixel is labelled in one of its two channels and never
        right, so Acc = 2 right / (2 valid + void).
        """
        right, valid = self.tp + self.tn, self.tp + self.fp + self.fn + self.tn
        return _ratio(2 * right, 2 * valid + (self.void if void == "wrong" else 0))

    def iou(self, kind: BinaryIoU = "standard") -> float:
        """Mean intersection over union of foreground and background.

        "paired" is what the official ImageNet script computes: mask and complement are stacked and enter one histogram
        together, so both "classes" have the intersection TP + TN and the union 2N - (TP + TN). It is a function of
        accuracy: Acc / (2 - Acc).
        """
        right, valid = self.tp + self.tn, self.tp + self.fp + self.fn + self.tn
        if kind == "paired":
            return _ratio(right, 2 * valid - right)
        unions = (self.tp + self.fp + self.fn, self.tn + self.fp + self.fn)
        ratios = [i / u for i, u in zip((self.tp, self.tn), unions, strict=True) if u > 0]
        return float(np.mean(ratios)) if ratios else float("nan")


@dataclass(frozen=True)
class ClassCounts:
    """Several classes, 0 the background where there is one.

    Attributes:
        intersection, predicted, labelled: pixels per class, void pixels left out.
        void_predicted: void pixels per predicted class.
    """

    intersection: Float[np.ndarray, " classes"]
    predicted: Float[np.ndarray, " classes"]
    labelled: Float[np.ndarray, " classes"]
    void_predicted: Float[np.ndarray, " classes"]

    @classmethod
    def of(
        cls,
        predicted: Integer[np.ndarray, "height width"],
        labels: Integer[np.ndarray, "height width"],
        classes: int,
    ) -> ClassCounts:
        """Counts of one image; `labels` holds -1 for void. A prediction of -1 is no class at all."""
        valid = labels != VOID

        def tally(values: np.ndarray) -> np.ndarray:
            return np.bincount(values[values >= 0].astype(int), minlength=classes).astype(float)

        return cls(
            intersection=tally(labels[valid & (predicted == labels)]),
            predicted=tally(predicted[valid]),
            labelled=tally(labels[valid]),
            void_predicted=tally(predicted[~valid]),
        )

    def __add__(self, other: ClassCounts) -> ClassCounts:
        return ClassCounts(*(a + b for a, b in zip(self._arrays(), other._arrays(), strict=True)))

    def _arrays(self) -> tuple[np.ndarray, ...]:
        return self.intersection, self.predicted, self.labelled, self.void_predicted

    def accuracy(self) -> float:
        """Share of right pixels, void left out."""
        return _ratio(self.intersection.sum(), self.labelled.sum())

    def class_iou(self, *, void_in_union: bool = False) -> Float[np.ndarray, " classes"]:
        """Intersection over union of each class; NaN for a class that is neither predicted nor labelled.

        With `void_in_union` a prediction on a void pixel counts against its class, as in the official VOC script.
        """
        union = self.predicted + self.labelled - self.intersection + (self.void_predicted if void_in_union else 0)
        with np.errstate(invalid="ignore"):
            return np.where(union > 0, self.intersection / np.maximum(union, 1e-12), np.nan)

    def iou(self, *, void_in_union: bool = False) -> float:
        """Mean over the classes that are predicted or labelled."""
        ratios = self.class_iou(void_in_union=void_in_union)
        return float(np.nanmean(ratios)) if np.isfinite(ratios).any() else float("nan")

    def to_json(self) -> dict[str, list[int]]:
        """Sparse: class number to intersection, predicted, labelled, void_predicted."""
        table = np.stack(self._arrays(), 1).astype(int)
        return {str(c): [int(v) for v in row] for c, row in enumerate(table) if row.any()}


def binary_from_json(rows: Sequence[Mapping[str, Any]]) -> Float[np.ndarray, "images field"]:
    """Counts of stored rows, in the order of `BINARY_FIELDS`."""
    return np.array([[row[name] for name in BINARY_FIELDS] for row in rows], float).reshape(-1, len(BINARY_FIELDS))


def classes_from_json(rows: Sequence[Mapping[str, Any]], classes: int) -> Float[np.ndarray, "images classes 4"]:
    """Counts of stored rows: intersection, predicted, labelled, void_predicted of each class."""
    table = np.zeros((len(rows), classes, 4))
    for number, row in enumerate(rows):
        for name, values in row.items():
            table[number, int(name)] = values
    return table


def _ratio(part: int | float, whole: int | float) -> float:
    return float(part / whole) if whole else float("nan")
