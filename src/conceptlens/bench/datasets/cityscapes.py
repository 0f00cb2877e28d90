"""Cityscapes (Cordts et al., CVPR 2016), fine annotations: `leftImg8bit` and `gtFine`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conceptlens.bench.datasets import register
from conceptlens.bench.datasets.base import (
    VOID,
    Dataset,
    Sample,
    looked_up,
    open_labels,
    open_picture,
    present_in,
    require,
)

CLASSES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck",
    28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
"""The 19 classes that are evaluated, by their number in `*_labelIds.png`; all others up to 33 are ignored."""
_PLACES = dict.fromkeys((*range(34), 255), VOID) | {number: place for place, number in enumerate(CLASSES)}
_PICTURE, _LABELS = "_leftImg8bit.png", "_gtFine_labelIds.png"


@register
class Cityscapes(Dataset):
    """Street scenes; the numbers that the benchmark ignores (ego vehicle, static, parking, ...) are void."""

    name = "cityscapes"
    summary = "Cityscapes val, 500 street scenes, 19 classes (fine annotations)"
    task = "multi"
    source = (
        "Get leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from https://www.cityscapes-dataset.com (an "
        "account is needed) and unpack both."
    )

    def __init__(self, pictures: Path, maps: Path) -> None:
        self._pictures, self._maps = pictures, maps

    @classmethod
    def open(cls, root: Path | None, *, split: str = "val", **options: Any) -> Cityscapes:
        return cls(require(root, f"leftImg8bit/{split}", cls), require(root, f"gtFine/{split}", cls))

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(CLASSES.values())

    def ids(self) -> Sequence[str]:
        paths = (path.relative_to(self._maps).as_posix() for path in self._maps.rglob(f"*{_LABELS}"))
        return sorted(path.removesuffix(_LABELS) for path in paths)

    def sample(self, id_: str) -> Sample:
        path = self._maps / f"{id_}{_LABELS}"
        labels = looked_up(open_labels(path), _PLACES, path)
        present = present_in(labels)
        return Sample(id_, open_picture(self._pictures / f"{id_}{_PICTURE}"), labels, present)
