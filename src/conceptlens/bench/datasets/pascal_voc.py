"""PascalVOC 2012 (Everingham et al.), the segmentation part of `VOCdevkit/VOC2012`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from conceptlens.bench.datasets import register
from conceptlens.bench.datasets.base import (
    VOID,
    DataError,
    Dataset,
    Sample,
    open_labels,
    open_picture,
    present_in,
    require,
)

CLASSES = (
    "background",
    *("plane", "bike", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("table", "dog", "horse", "motorcycle", "person", "pot", "sheep", "sofa", "train", "monitor"),
)
"""The 21 labels by number, under the short names that the paper asks for."""

SINGLE_SIDE = 224
"""The label size at which the official split counts classes."""


class PascalVOC(Dataset):
    """The shared reader; 255 on disk is void."""

    source = "Get VOCtrainval_11-May-2012.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ and unpack it."

    def __init__(self, base: Path, ids: Sequence[str]) -> None:
        self._base, self._ids = base, list(ids)

    @classmethod
    def open(cls, root: Path | None, *, split: str = "val", **options: Any) -> PascalVOC:
        for inner in ("VOCdevkit/VOC2012", "VOC2012", "."):
            if root is not None and (root / inner / "ImageSets/Segmentation").is_dir():
                base = root / inner
                break
        else:
            base = require(root, "VOCdevkit/VOC2012", cls)
        listed = require(base, f"ImageSets/Segmentation/{split}.txt", cls)
        require(base, "JPEGImages", cls)
        require(base, "SegmentationClass", cls)
        return cls(base, listed.read_text().split())

    @property
    def classes(self) -> tuple[str, ...]:
        return CLASSES

    def ids(self) -> Sequence[str]:
        return self._ids

    def _labels(self, id_: str) -> np.ndarray:
        path = self._base / "SegmentationClass" / f"{id_}.png"
        stored = open_labels(path)
        labels = np.where(stored == 255, VOID, stored)
        if labels.max() >= len(CLASSES):
            raise DataError(f"{path} has label {labels.max()}, VOC has 0 to 20 and 255. Restore the file.")
        return labels

    def _picture(self, id_: str) -> Image.Image:
        return open_picture(self._base / "JPEGImages" / f"{id_}.jpg")


@register
class PascalVOCMulti(PascalVOC):
    """All 1,449 validation images, 20 classes and the background."""

    name = "voc-multi"
    summary = "PascalVOC 2012 val, 1,449 images, 20 classes and background"
    task = "multi"
    background = True

    def sample(self, id_: str) -> Sample:
        labels = self._labels(id_)
        present = present_in(labels, background=True)
        return Sample(id_, self._picture(id_), labels, present)


@register
class PascalVOCSingle(PascalVOC):
    """Images with one class, as the official script picks them.

    Those whose label map, after a nearest-neighbour resize to 224 pixels, has at most two numbers besides void; all of
    its non-zero numbers are the foreground. (Two classes without any background pass as well, and count as one.)
    """

    name = "voc-single"
    summary = "PascalVOC 2012 val, images with a single class: foreground against background"
    task = "single"

    @property
    def classes(self) -> tuple[str, ...]:
        return CLASSES[1:]

    def ids(self) -> Sequence[str]:
        return self._single

    @cached_property
    def _single(self) -> list[str]:
        # Reads every label map, so only on demand: a process that is given its ids never does.
        return [id_ for id_ in self._ids if self._is_single(id_)]

    def _is_single(self, id_: str) -> bool:
        try:
            numbers = np.unique(_nearest(self._labels(id_), SINGLE_SIDE))
        except DataError:
            return True  # kept, so that the run reports it
        return len(numbers[numbers != VOID]) <= 2 and bool((numbers > 0).any())

    def sample(self, id_: str) -> Sample:
        labels = self._labels(id_)
        labels_there, sizes = np.unique(labels[labels > 0], return_counts=True)
        if not len(labels_there):
            raise DataError(f"{id_} has no labelled object. Restore the file.")
        target = int(labels_there[sizes.argmax()]) - 1  # `classes` leaves the background out
        return Sample(id_, self._picture(id_), np.where(labels > 0, 1, labels), (target,))


def _nearest(labels: np.ndarray, side: int) -> np.ndarray:
    rows, cols = (np.arange(side) * n // side for n in labels.shape)
    return labels[rows[:, None], cols[None]]
