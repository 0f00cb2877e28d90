"""Report: what a run found, from its stored rows, with intervals and the settings that made it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from conceptlens.bench.counts import BINARY_FIELDS, BinaryCounts, ClassCounts, binary_from_json, classes_from_json
from conceptlens.bench.metrics import bootstrap_draws, bootstrap_interval, percentile_interval
from conceptlens.bench.paper import paper_figures
from conceptlens.bench.rows import read_rows, write_report


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% bootstrap interval over images."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @classmethod
    def of_mean(cls, values: Sequence[float] | np.ndarray) -> Estimate:
        """The mean of those values that are numbers; NaN when none is."""
        numbers = np.asarray(values, float)
        numbers = numbers[np.isfinite(numbers)]
        if not len(numbers):
            return cls(np.nan, np.nan, np.nan)
        return cls(float(numbers.mean()), *bootstrap_interval(numbers))

    def rounded(self) -> list[float]:
        """Value, low and high to four digits, for JSON."""
        return [round(figure, 4) for figure in (self.value, self.low, self.high)]


@dataclass(frozen=True)
class Report:
    """Figures of one run.

    Attributes:
        header: what `run.json` says: settings, command, versions, ...
        rows: one per image, bad ones (with an `error`) included.
    """

    header: dict[str, Any]
    rows: Sequence[dict[str, Any]]

    @classmethod
    def load(cls, folder: Path | str) -> Report:
        """From the folder of a run, or of a saved report. Raises `RunError` when there is none."""
        header, rows = read_rows(Path(folder))
        return cls(header, sorted(rows, key=lambda row: row["id"]))

    def save(self, folder: Path | str) -> None:
        """Writes `report.json`: all figures, tables and paired differences come out of it as out of the run's rows.

        Raises:
            RunError: when it cannot be written.
        """
        write_report(Path(folder), self.header, self.rows)

    @property
    def settings(self) -> dict[str, Any]:
        return self.header["settings"]

    @property
    def protocol(self) -> dict[str, Any]:
        return self.settings["protocol"]

    @property
    def method(self) -> str:
        return self.settings["method"]

    @property
    def paper(self) -> tuple[float, ...] | None:
        """Accuracy, mIoU and AP that the paper prints for the same method and data, in per cent, where it does."""
        return paper_figures(self.settings["dataset"], self.method, self.settings["model"])

    @cached_property
    def good(self) -> list[dict[str, Any]]:
        """Rows with counts."""
        return [row for row in self.rows if "error" not in row]

    @cached_property
    def bad(self) -> list[dict[str, Any]]:
        """Rows of images that could not be read."""
        return [row for row in self.rows if "error" in row]

    def column(self, score: str) -> Float[np.ndarray, " images"]:
        """One score of all good images, NaN where an image has none."""
        return np.array([np.nan if row["scores"].get(score) is None else row["scores"][score] for row in self.good])

    @cached_property
    def metrics(self) -> dict[str, Estimate]:
        """The protocol's own figures, then those that stand beside them.

        `accuracy`, `miou` and `ap` are computed as the protocol says: the first two from pixel counts summed over the
        images, the third as a mean over images. `iou_image` is the mean over images of each image's own mean IoU, and
        `auc` of its ROC-AUC. Beside a quirk of the protocol stand `accuracy_standard`, `miou_standard`, `ap_minmax`.
        """
        if not self.good:
            return {}
        single = self.protocol["task"] == "single"
        micro = self._binary() if single else self._classes()
        means = {"iou_image": "iou", "auc": "auc"}
        ap = self.protocol["ap"].replace("-", "_")
        if ap != "none":
            means = {"ap": f"ap_{ap}", **means}
        if single and ap != "pooled_minmax":
            means["ap_minmax"] = "ap_pooled_minmax"
        means_of_images = {name: Estimate.of_mean(self.column(score)) for name, score in means.items()}
        first = [name for name in ("accuracy", "miou", "ap") if name in micro or name in means_of_images]
        both = {**micro, **means_of_images}
        return {name: both[name] for name in [*first, *(n for n in both if n not in first)]}

    def _binary(self) -> dict[str, Estimate]:
        table = binary_from_json([row["counts"] for row in self.good])
        void, kind = self.protocol["void_accuracy"], self.protocol["iou"]
        chosen: dict[str, Callable[[np.ndarray], float]] = {
            "accuracy": lambda sums: BinaryCounts(*sums).accuracy(void),
            "miou": lambda sums: BinaryCounts(*sums).iou(kind),
        }
        if void != "ignored":
            chosen["accuracy_standard"] = lambda sums: BinaryCounts(*sums).accuracy()
        if kind != "standard":
            chosen["miou_standard"] = lambda sums: BinaryCounts(*sums).iou()
        assert table.shape[1] == len(BINARY_FIELDS)
        return _micro(table, chosen)

    def _classes(self) -> dict[str, Estimate]:
        table = classes_from_json([row["counts"]["classes"] for row in self.good], len(self.header["classes"]))
        union = self.protocol["void_in_union"]
        chosen: dict[str, Callable[[np.ndarray], float]] = {
            "accuracy": lambda sums: ClassCounts(*sums.T).accuracy(),
            "miou": lambda sums: ClassCounts(*sums.T).iou(void_in_union=union),
        }
        if union:
            chosen["miou_standard"] = lambda sums: ClassCounts(*sums.T).iou()
        return _micro(table, chosen)

    def class_iou(self) -> dict[str, float]:
        """IoU of each class over the whole run (multi); empty for one target per image."""
        if self.protocol["task"] == "single":
            return {}
        classes = self.header["classes"]
        table = classes_from_json([row["counts"]["classes"] for row in self.good], len(classes)).sum(0)
        values = ClassCounts(*table.T).class_iou(void_in_union=self.protocol["void_in_union"])
        return {name: float(value) for name, value in zip(classes, values, strict=True) if np.isfinite(value)}

    def summary(self) -> dict[str, Any]:
        """Everything but the rows, as plain JSON values."""
        return {
            "metrics": {name: estimate.rounded() for name, estimate in self.metrics.items()},
            "class_iou": {name: round(value, 4) for name, value in self.class_iou().items()},
            "images": len(self.good),
            "bad_images": len(self.bad),
            "seconds_per_image": self.seconds,
            "paper": self.paper,
            **self.header,
        }

    @property
    def seconds(self) -> float | None:
        """Median seconds per image."""
        return round(float(np.median([row["seconds"] for row in self.good])), 4) if self.good else None


def difference(first: Report, second: Report, score: str) -> Estimate:
    """Mean over common images of one score of the first minus the second, paired."""
    theirs = {row["id"]: row["scores"].get(score) for row in second.good}
    pairs = [(row["scores"].get(score), theirs.get(row["id"])) for row in first.good]
    return Estimate.of_mean(np.array([a - b for a, b in pairs if a is not None and b is not None]))


def _micro(table: np.ndarray, chosen: dict[str, Callable[[np.ndarray], float]]) -> dict[str, Estimate]:
    """Figures of counts summed over images, with an interval over images drawn with replacement."""
    images = len(table)
    drawn = np.stack([np.bincount(picked, minlength=images) for picked in bootstrap_draws(images)]).astype(float)
    sums = np.tensordot(drawn, table, axes=1)
    whole = table.sum(0)
    return {
        name: Estimate(figure(whole), *percentile_interval(np.array([figure(s) for s in sums])))
        for name, figure in chosen.items()
    }
