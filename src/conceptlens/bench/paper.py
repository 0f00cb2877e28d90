"""Figures of the paper (ConceptAttention, arXiv 2502.04320), to stand beside ours. Per cent: accuracy, mIoU, mAP.

The ImageNet mIoU column mixes two metrics: rows with `paired` True satisfy mIoU = Acc / (2 - Acc) (see
`BinaryCounts.iou`), the others do not. The first six rows and TextSpan carry the ImageNet figures of earlier papers,
made with an ImageNet classifier and another protocol.
"""

from __future__ import annotations

from dataclasses import dataclass

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class PaperRow:
    """One row of Table 1: figures on ImageNet-Segmentation and on PascalVOC, single class."""

    imagenet: Triple
    voc_single: Triple
    paired: bool


TABLE_1: dict[tuple[str, str], PaperRow] = {
    ("lrp", ""): PaperRow((51.09, 32.89, 55.68), (48.77, 31.44, 52.89), paired=False),
    ("partial-lrp", ""): PaperRow((76.31, 57.94, 84.67), (71.52, 51.39, 84.86), paired=False),
    ("rollout", ""): PaperRow((73.54, 55.42, 84.76), (69.81, 51.26, 85.34), paired=False),
    ("vit-attention", ""): PaperRow((67.84, 46.37, 80.24), (68.51, 44.81, 83.63), paired=False),
    ("gradcam", ""): PaperRow((64.44, 40.82, 71.60), (70.44, 44.90, 76.80), paired=False),
    ("textspan", ""): PaperRow((75.21, 54.50, 81.61), (75.00, 56.24, 84.79), paired=False),
    ("transinterp", ""): PaperRow((79.70, 61.95, 86.03), (76.90, 57.08, 86.74), paired=False),
    ("clip-as-rnn", ""): PaperRow((74.05, 58.80, 84.80), (61.76, 41.48, 76.57), paired=True),
    ("ovam", ""): PaperRow((79.41, 65.02, 88.12), (73.50, 58.12, 87.91), paired=False),
    ("dino", ""): PaperRow((81.97, 69.44, 86.12), (80.71, 64.33, 88.90), paired=True),
    ("dinov2", ""): PaperRow((77.39, 63.12, 84.19), (79.65, 57.61, 87.26), paired=True),
    ("dinov2-reg", ""): PaperRow((72.04, 56.31, 80.83), (77.16, 56.60, 86.35), paired=True),
    ("ibot", ""): PaperRow((76.34, 61.73, 82.04), (74.96, 55.80, 85.26), paired=True),
    ("daam", "SDXL"): PaperRow((78.47, 64.56, 88.79), (72.76, 55.95, 88.34), paired=True),
    ("daam", "SD2"): PaperRow((64.52, 47.62, 78.01), (64.28, 45.01, 83.04), paired=True),
    ("cross-attention", "FLUX.1"): PaperRow((74.92, 59.90, 87.23), (80.37, 54.77, 89.08), paired=True),
    ("cross-attention", "SD3.5"): PaperRow((77.80, 63.67, 83.50), (80.22, 61.46, 86.97), paired=True),
    ("concept-attention", "SD3.5"): PaperRow((81.92, 67.47, 90.79), (83.90, 69.93, 90.02), paired=False),
    ("concept-attention", "FLUX.1"): PaperRow((83.07, 71.04, 90.45), (87.85, 76.45, 90.19), paired=True),
}
"""Table 1, by method and the model's family ("" where there is but one)."""

TABLE_2: dict[str, tuple[float, float]] = {
    "textspan": (73.84, 38.10),
    "daam": (62.89, 10.97),
    "cross-attention": (79.52, 27.04),
    "concept-attention": (86.99, 51.39),
}
"""PascalVOC, multi-class: accuracy and mIoU."""

TABLE_3: dict[str, Triple] = {
    "cross, raw": (66.59, 49.91, 73.17),
    "cross, softmax": (74.92, 59.90, 87.23),
    "value, raw": (45.93, 29.81, 65.79),
    "value, softmax": (45.78, 29.68, 39.61),
    "output, raw": (78.75, 64.95, 88.39),
    "output, softmax": (83.07, 71.04, 90.45),
}
"""Ablation of the space and the softmax over concepts (ImageNet-Segmentation)."""

TABLE_4: dict[str, Triple] = {
    "neither": (52.63, 35.72, 70.21),
    "self only": (51.68, 34.85, 69.36),
    "cross only": (76.51, 61.96, 86.73),
    "cross and self": (83.07, 71.04, 90.45),
}
"""Ablation of what the concept stream attends to (ImageNet-Segmentation)."""


def paper_figures(dataset: str, method: str, model: str) -> tuple[float, ...] | None:
    """The paper's figures for a run, in per cent; None where the paper has no such row."""
    if dataset == "voc-multi":
        return TABLE_2.get(method)
    rows = {family: row for (name, family), row in TABLE_1.items() if name == method}
    lowered = model.lower()
    family = next((f for f in rows if f and _marker(f) in lowered), "")
    row = rows.get(family)
    if row is None or dataset not in ("imagenet-seg", "voc-single"):
        return None
    return row.imagenet if dataset == "imagenet-seg" else row.voc_single


def _marker(family: str) -> str:
    """What a model's id contains if it is of a family."""
    markers = {"FLUX.1": "flux.1", "SD3.5": "stable-diffusion-3", "SDXL": "-xl-", "SD2": "stable-diffusion-2"}
    return markers[family]
