"""Report: what a run found, with the settings that made it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conceptlens.bench.metrics import bootstrap_interval
from conceptlens.files import into_folder

METRICS = ("accuracy", "miou", "ap", "auc")


@dataclass(frozen=True)
class Report:
    """Scores of one method on one dataset.

    Attributes:
        method: its name.
        dataset: its name and split.
        model_id: the model.
        recipe: the settings, as plain values.
        seed: of the run.
        rows: one per image: its id and its metrics.
        seconds: wall time of the run.
        command: the command line that repeats it.
        versions: of the packages.
    """

    method: str
    dataset: str
    model_id: str
    recipe: dict[str, Any]
    seed: int
    rows: tuple[dict[str, Any], ...]
    seconds: float
    command: str
    versions: dict[str, str]

    def values(self, metric: str) -> np.ndarray:
        """One metric of all images, NaN left out."""
        found = [row[metric] for row in self.rows]
        return np.array([v for v in found if not math.isnan(v)])

    def mean(self, metric: str) -> float:
        """Mean over images."""
        return float(self.values(metric).mean())

    def summary(self) -> dict[str, Any]:
        """Means with their 95% intervals over images, and how they came about."""
        scores = {name: round(self.mean(name), 4) for name in METRICS}
        intervals = {name: [round(v, 4) for v in bootstrap_interval(self.values(name))] for name in METRICS}
        return {
            **scores,
            "images": len(self.rows),
            "method": self.method,
            "dataset": self.dataset,
            "model": self.model_id,
            "seed": self.seed,
            "interval95": intervals,
            "seconds": round(self.seconds, 2),
            "recipe": self.recipe,
            "command": self.command,
            "versions": self.versions,
        }

    def save(self, folder: str | Path) -> Path:
        """Writes `<method>.json`: the summary and the rows."""
        name = f"{self.method}.json"
        with into_folder(folder) as stage:
            (stage / name).write_text(json.dumps({**self.summary(), "rows": list(self.rows)}, indent=1) + "\n")
        return Path(folder) / name
