"""COCO 2017 panoptic (Kirillov et al., CVPR 2019): 80 kinds of things and 53 of stuff, read as classes of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from conceptlens.bench.datasets import register
from conceptlens.bench.datasets._coco import names_of, read_annotations
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


@register
class COCOPanoptic(Dataset):
    """Segments of `panoptic_val2017.json` by their category; pixels without a segment (number 0) are void.

    The released layout, `annotations/panoptic_val2017.json`, `annotations/panoptic_val2017/*.png` and `val2017/*.jpg`,
    or a folder of `panoptic.json`, `panoptic/` and `images/`.
    """

    name = "coco-panoptic"
    summary = "COCO 2017 panoptic val, 5,000 images, 80 things and 53 kinds of stuff as classes"
    task = "multi"
    source = (
        "Get panoptic_annotations_trainval2017.zip and val2017.zip from https://cocodataset.org/#download, and unpack "
        "both, and the panoptic_val2017.zip inside the first."
    )

    def __init__(self, annotations: Path, masks: Path, pictures: Path) -> None:
        self._file, self._masks, self._pictures = annotations, masks, pictures
        content = read_annotations(annotations, ("images", "annotations", "categories"))
        self._names = names_of(content["categories"], annotations)
        try:
            self._segments = {str(each["file_name"])[:-4]: each["segments_info"] for each in content["annotations"]}
            self._images = {str(each["file_name"])[:-4]: str(each["file_name"]) for each in content["images"]}
        except (KeyError, TypeError) as error:
            raise DataError(f"an entry in {annotations} has no {one_line(error)}. Restore the file.") from error

    @classmethod
    def open(cls, root: Path | None, *, split: str = "val", **options: Any) -> COCOPanoptic:
        whole = f"panoptic_{split}2017"
        file = require(root, f"annotations/{whole}.json", cls, "panoptic.json")
        masks = require(root, f"annotations/{whole}", cls, "panoptic")
        return cls(file, masks, require(root, f"{split}2017", cls, "images"))

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self._names.values())

    def ids(self) -> Sequence[str]:
        return list(self._segments)

    @cached_property
    def _places(self) -> dict[int, int]:
        """By the number of a category its place among the classes."""
        return {number: place for place, number in enumerate(self._names)}

    def sample(self, id_: str) -> Sample:
        path = self._masks / f"{id_}.png"
        places = {0: VOID}
        for segment in self._segments[id_]:
            if segment.get("category_id") not in self._places:
                raise DataError(f"a segment of {id_} in {self._file} has no known category. Restore the file.")
            places[segment["id"]] = self._places[segment["category_id"]]
        labels = looked_up(_segment_numbers(path), places, path)
        present = present_in(labels)
        picture = self._pictures / self._images.get(id_, f"{id_}.jpg")
        return Sample(id_, open_picture(picture), labels, present)


def _segment_numbers(path: Path) -> np.ndarray:
    """The number of each pixel's segment: red + 256 green + 65,536 blue."""
    try:
        with Image.open(path) as opened:
            colours = np.asarray(opened.convert("RGB")).astype(np.int32)
    except DAMAGED as error:
        raise DataError(f"cannot read the label map {path} ({one_line(error)}). Restore the file.") from error
    return colours @ np.array([1, 256, 65536], np.int32)
