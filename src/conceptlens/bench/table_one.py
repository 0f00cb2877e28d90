"""Table 1 of the paper in miniature: every row on small models of its kind, on scenes with exact masks.

The zoo (`values.zoo`) holds models that were trained for what their big siblings are trained for. A row whose model is
missing is left out and named; nothing runs on random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from conceptlens.bench.counts import BinaryCounts, binary_from_json
from conceptlens.bench.metrics import bootstrap_draws, kendall_tau, percentile_interval
from conceptlens.bench.paper import TABLE_1, TABLE_2
from conceptlens.bench.report import Estimate, Report
from conceptlens.bench.rows import RunError, Track
from conceptlens.bench.runs import run
from conceptlens.bench.scorer import RunSpec
from conceptlens.bench.tables import Table, protocol_line
from conceptlens.values.zoo import PREFIX, zoo_models

SINGLE, SEVERAL = "scenes-single", "scenes"
"""The dataset of Table 1's rows, and that of Table 2's."""


@dataclass(frozen=True)
class TableRow:
    """A row of Table 1.

    Attributes:
        method: a method's name.
        family: which of the paper's rows of that method, "" where it has one.
        folder: the model in the zoo that stands for the paper's.
        options: settings that the small model needs.
    """

    method: str
    family: str
    folder: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """Of the row's folder of results."""
        return f"{self.method}-{self.folder}"

    @property
    def model(self) -> str:
        """The model's name in the zoo."""
        return PREFIX + self.folder


_SIDE = {"size": 64}
"""Pixels of a side: that of the pictures, where a method's default is that of its big model."""
ROWS: tuple[TableRow, ...] = (
    TableRow("lrp", "", "vit", {"dtype": "float64"}),
    TableRow("partial-lrp", "", "vit"),
    TableRow("rollout", "", "vit"),
    TableRow("vit-attention", "", "vit"),
    TableRow("gradcam", "", "vit"),
    TableRow("textspan", "", "clip"),
    TableRow("transinterp", "", "vit"),
    TableRow("clip-as-rnn", "", "clip", {**_SIDE, "scorer": "zoo:clip"}),
    TableRow("ovam", "", "sdxl", _SIDE),
    TableRow("dino", "", "dino", _SIDE),
    TableRow("dinov2", "", "dinov2", _SIDE),
    TableRow("dinov2-reg", "", "dinov2-reg", _SIDE),
    TableRow("ibot", "", "ibot", _SIDE),
    TableRow("daam", "SDXL", "sdxl", _SIDE),
    TableRow("daam", "SD2", "sd2", _SIDE),
    TableRow("cross-attention", "FLUX.1", "neutral"),
    TableRow("cross-attention", "SD3.5", "sd3"),
    TableRow("concept-attention", "SD3.5", "sd3"),
    TableRow("concept-attention", "FLUX.1", "neutral"),
)
"""In the order of the paper."""


@dataclass(frozen=True)
class TableReport:
    """What a run of the table found.

    Attributes:
        single: reports on scenes of one object, by row.
        several: reports on scenes of several objects, of the methods in the paper's Table 2.
        command: what repeats it.
    """

    single: Mapping[TableRow, Report]
    several: Mapping[TableRow, Report]
    command: str


def rows_of_the_zoo() -> tuple[list[TableRow], list[TableRow]]:
    """The rows that the zoo can serve, and those whose model it lacks.

    Raises:
        RunError: for a zoo that serves none.
    """
    known = zoo_models()
    there = [row for row in ROWS if row.model in known]
    if not there:
        models = ", ".join(dict.fromkeys(row.folder for row in ROWS))
        raise RunError(f"the zoo has none of the models {models}. Give that of the repository with --zoo.")
    return there, [row for row in ROWS if row not in there]


def models_of(method: str) -> list[str]:
    """The models of the zoo that a method runs on, as they are there."""
    known = zoo_models()
    return [row.model for row in ROWS if row.method == method and row.model in known]


def spec_of(row: TableRow, dataset: str, *, device: str | None = None, seed: int = 0) -> RunSpec:
    """What is run for a row on a dataset."""
    return RunSpec(dataset, row.method, "fixed", row.model, None, device, seed, row.options)


def score_table(
    out: Path,
    *,
    limit: int = 200,
    track: Callable[[TableRow], Track] = lambda row: lambda rows, total: rows,
    command: str = "",
    **how: Any,
) -> TableReport:
    """Scores every row that the zoo can serve; the same call goes on where it was interrupted.

    Args:
        out: a folder per row is made in it.
        limit: images of each dataset.
        track: for a row, what wraps its images as they are done.
        command: what to tell about how to repeat it.
        **how: `engine` and `workers` (see `runs.run`), `device` and `seed`.
    """
    there, _ = rows_of_the_zoo()
    engine = {name: how.pop(name) for name in ("engine", "workers") if name in how}

    def scored(row: TableRow, dataset: str) -> Report:
        spec = spec_of(row, dataset, **how)
        folder = out / dataset / row.name
        return Report(*run(spec, folder, limit=limit, track=track(row), command=command, **engine))

    return TableReport(
        {row: scored(row, SINGLE) for row in there},
        {row: scored(row, SEVERAL) for row in there if row.method in TABLE_2},
        command,
    )


def rank_agreement(reports: Mapping[TableRow, Report], column: str) -> Estimate:
    """Kendall's tau between our order of the rows by mean IoU and the paper's, with its interval over images.

    Args:
        reports: of one dataset, with the same images each.
        column: "imagenet" or "voc_single".
    """
    theirs = np.array([getattr(TABLE_1[row.method, row.family], column)[1] for row in reports])
    tables = [binary_from_json([line["counts"] for line in report.good]) for report in reports.values()]
    whole = np.array([_iou(table.sum(0)) for table in tables])
    drawn = np.array([[_iou(table[picked].sum(0)) for table in tables] for picked in bootstrap_draws(len(tables[0]))])
    return Estimate(float(kendall_tau(whole, theirs)), *percentile_interval(kendall_tau(drawn, theirs)))


def _iou(counts: np.ndarray) -> float:
    return BinaryCounts(*counts).iou()


def paired(accuracy: Estimate) -> Estimate:
    """The degenerate mean IoU of the paper's ImageNet column, a function of accuracy (see `BinaryCounts.iou`)."""
    return Estimate(*(value / (2 - value) for value in (accuracy.value, accuracy.low, accuracy.high)))


def table_one(report: TableReport) -> Table:
    """Our figures beside the paper's, row by row in its order."""
    head = ("method", "model", "Acc", "mIoU", "mIoU paired", "AP", "paper, ImageNet: Acc / mIoU / AP", "s/image")
    body = []
    for row in ROWS:
        theirs = " / ".join(f"{value:.2f}" for value in TABLE_1[row.method, row.family].imagenet)
        if row not in report.single:
            body.append((row.method, f"{row.folder} (not trained yet)", "", "", "", "", theirs, ""))
            continue
        found = report.single[row]
        figures = found.metrics
        cells = (figures["accuracy"], figures["miou"], paired(figures["accuracy"]), figures["ap"])
        body.append((row.method, row.folder, *map(str, cells), theirs, f"{found.seconds}"))
    one = next(iter(report.single.values()))
    notes = [
        f"{len(one.good)} scenes of one object. {protocol_line(one.protocol)} 95% bootstrap intervals over images.",
        "mIoU paired = Acc / (2 - Acc) is what most rows of the paper's ImageNet column print.",
    ]
    if len(report.single) > 2:
        for column, name in (("imagenet", "ImageNet-Segmentation"), ("voc_single", "PascalVOC, single class")):
            agreement = rank_agreement(report.single, column)
            notes.append(f"Rank agreement with the paper's mIoU on {name} (Kendall's tau): {agreement}.")
    return Table("Table 1 in miniature", head, tuple(body), (*notes, f"`{report.command}`"))


def table_two(report: TableReport) -> Table:
    """Scenes of several objects, beside the paper's figures for several classes of PascalVOC."""
    head = ("method", "model", "Acc", "mIoU", "mIoU per image", "ROC-AUC", "paper, PascalVOC: Acc / mIoU")
    body = []
    for row, found in report.several.items():
        figures = found.metrics
        cells = (figures["accuracy"], figures["miou"], figures["iou_image"], figures["auc"])
        theirs = " / ".join(f"{value:.2f}" for value in TABLE_2[row.method])
        body.append((row.method, row.folder, *map(str, cells), theirs))
    one = next(iter(report.several.values()))
    notes = (
        f"{len(one.good)} scenes of one to four objects. {protocol_line(one.protocol)} "
        "95% bootstrap intervals over images.",
        f"`{report.command}`",
    )
    return Table("Several objects", head, tuple(body), notes)
