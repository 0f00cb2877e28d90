"""Pascal Context (Mottaghi et al., CVPR 2014): whole scenes of PascalVOC 2010, the 59 most frequent classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conceptlens.bench.datasets import register
from conceptlens.bench.datasets._class_list import read_classes
from conceptlens.bench.datasets.base import (
    VOID,
    DataError,
    Dataset,
    Sample,
    looked_up,
    open_picture,
    present_in,
    require,
)
from conceptlens.values.errors import one_line
from conceptlens.values.pictures import DAMAGED

SPELLED = {
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "tvmonitor": "tv monitor",
    "bedclothes": "bed clothes",
}
"""Names that the release writes as one word, as a text encoder knows them."""


@register
class PascalContext(Dataset):
    """Label maps `trainval/*.mat` of 459 numbers, of which the 59 in `59_labels.txt` are classes; all others are void.

    The validation images are those of PascalVOC 2010's own `ImageSets/Main/val.txt` that have a label map.
    """

    name = "pascal-context"
    summary = "Pascal Context val, 5,105 images, the 59 most frequent classes"
    task = "multi"
    source = (
        "Get trainval.tar.gz, labels.txt and 59_labels.txt from https://cs.stanford.edu/~roozbeh/pascal-context/ and "
        "VOCtrainval_03-May-2010.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2010/, and unpack all in one place."
    )

    def __init__(self, maps: Path, voc: Path, split: str, places: Mapping[int, int], names: Sequence[str]) -> None:
        self._maps, self._voc, self._places, self._names = maps, voc, dict(places), tuple(names)
        listed = (voc / "ImageSets/Main" / f"{split}.txt").read_text().split()
        self._ids = [id_ for id_ in listed if (maps / f"{id_}.mat").exists()]
        if not self._ids:
            raise DataError(f"none of the {len(listed)} images of {split}.txt has a label map in {maps}. {self.source}")

    @classmethod
    def open(cls, root: Path | None, *, split: str = "val", **options: Any) -> PascalContext:
        maps = require(root, "trainval", cls)
        voc = require(root, "VOCdevkit/VOC2010", cls, "VOC2010")
        require(voc, f"ImageSets/Main/{split}.txt", cls)
        require(voc, "JPEGImages", cls)
        numbers = read_classes(require(root, "labels.txt", cls))
        file = require(root, "59_labels.txt", cls)
        chosen = read_classes(file)
        by_name = {name: number for number, name in numbers.items()}
        if missing := [name for name in chosen.values() if name and name not in by_name]:
            raise DataError(f"{file} names {missing[0]!r}, and labels.txt does not. Restore both files.")
        names = [name for name in chosen.values() if name]
        places = dict.fromkeys((0, *numbers), VOID) | {by_name[name]: place for place, name in enumerate(names)}
        return cls(maps, voc, split, places, [SPELLED.get(name, name) for name in names])

    @property
    def classes(self) -> tuple[str, ...]:
        return self._names

    def ids(self) -> Sequence[str]:
        return self._ids

    def sample(self, id_: str) -> Sample:
        path = self._maps / f"{id_}.mat"
        labels = looked_up(_label_map(path), self._places, path)
        present = present_in(labels)
        return Sample(id_, open_picture(self._voc / "JPEGImages" / f"{id_}.jpg"), labels, present)


def _label_map(path: Path) -> np.ndarray:
    """The numbers that a file of MATLAB 5 holds."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        stored = np.asarray(loadmat(path)["LabelMap"])
    except (*DAMAGED, KeyError, MatReadError, NotImplementedError) as error:
        raise DataError(f"cannot read the label map {path} ({one_line(error)}). Restore the file.") from error
    if stored.ndim != 2:
        raise DataError(f"the label map {path} has {stored.ndim} axes, not 2. Restore the file.")
    return stored.astype(np.int32)
