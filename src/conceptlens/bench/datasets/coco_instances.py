"""COCO 2017 instances (Lin et al., ECCV 2014): objects of 80 categories, one at a time or all in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from conceptlens.bench.datasets import register
from conceptlens.bench.datasets._coco import mask_of, names_of, read_annotations
from conceptlens.bench.datasets.base import VOID, DataError, Dataset, Sample, open_picture, present_in, require
from conceptlens.values.errors import one_line

Annotation = Mapping[str, Any]


class _Instances(Dataset):
    """The shared reader of `annotations/instances_val2017.json` and `val2017/*.jpg`."""

    source = "Get annotations_trainval2017.zip and val2017.zip from https://cocodataset.org/#download and unpack both."

    def __init__(self, annotations: Path, pictures: Path) -> None:
        self._file, self._pictures = annotations, pictures
        content = read_annotations(annotations, ("images", "annotations", "categories"))
        self._names = names_of(content["categories"], annotations)
        try:
            self._images = {int(each["id"]): str(each["file_name"]) for each in content["images"]}
            self._of_image: dict[int, list[Annotation]] = {number: [] for number in self._images}
            for each in content["annotations"]:
                self._of_image[int(each["image_id"])].append(each)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"an entry in {annotations} has no {one_line(error)}. Restore the file.") from error
        if unknown := {each.get("category_id") for each in content["annotations"]} - set(self._names):
            raise DataError(f"{annotations} has annotations of category {unknown.pop()}, which it does not name.")

    @classmethod
    def open(cls, root: Path | None, *, split: str = "val", **options: Any) -> _Instances:
        file = require(root, f"annotations/instances_{split}2017.json", cls)
        return cls(file, require(root, f"{split}2017", cls))

    def _picture(self, number: int) -> Image.Image:
        return open_picture(self._pictures / self._images[number])


@register
class COCOObject(_Instances):
    """Classes of pixels: 80 categories, and a background of all other pixels.

    Where objects overlap, the one that stands later in the file has the pixel. Crowds count as their category.
    """

    name = "coco-object"
    summary = "COCO-Object: COCO 2017 val, 5,000 images, 80 classes and background"
    task = "multi"
    background = True

    @property
    def classes(self) -> tuple[str, ...]:
        return ("background", *self._names.values())

    def ids(self) -> Sequence[str]:
        return [str(number) for number in self._images]

    def sample(self, id_: str) -> Sample:
        picture = self._picture(int(id_))
        places = {number: place for place, number in enumerate(self._names, 1)}
        labels = np.zeros(picture.size[::-1], np.int32)
        for annotation in self._of_image[int(id_)]:
            labels[mask_of(annotation, picture.size)] = places[annotation["category_id"]]
        present = present_in(labels, background=True)
        return Sample(id_, picture, labels, present)


@register
class COCOInstances(_Instances):
    """One target for each category in each picture: all of its objects against the rest; its crowds are void."""

    name = "coco-instances"
    summary = "COCO 2017 instances val: all objects of one category in a picture against the rest"
    task = "single"

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self._names.values())

    def ids(self) -> Sequence[str]:
        pairs = dict.fromkeys(
            (number, each["category_id"])
            for number, those in self._of_image.items()
            for each in those
            if not each.get("iscrowd")
        )
        return [f"{number}/{self._names[category]}" for number, category in pairs]

    def sample(self, id_: str) -> Sample:
        number, _, name = id_.partition("/")
        picture = self._picture(int(number))
        labels = np.zeros(picture.size[::-1], np.int32)
        targets = [each for each in self._of_image[int(number)] if self._names[each["category_id"]] == name]
        for annotation in sorted(targets, key=lambda each: not each.get("iscrowd")):
            labels[mask_of(annotation, picture.size)] = VOID if annotation.get("iscrowd") else 1
        if not (labels == 1).any():
            raise DataError(f"{name!r} in image {number} of {self._file} covers no pixel. Restore the file.")
        return Sample(id_, picture, labels, (self.classes.index(name),))
