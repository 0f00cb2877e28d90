"""Folders of images and masks: COCO-Stuff, ADE20K, or your own pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conceptlens.bench.datasets import register
from conceptlens.bench.datasets.base import VOID, DataError, Dataset, Sample, open_labels, open_picture, require

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def _pairs(images: Path, masks: Path) -> dict[str, tuple[Path, Path]]:
    """Pictures and label maps that share a file name, by that name."""
    found = {}
    for path in sorted(images.rglob("*")):
        mask = masks / path.relative_to(images).with_suffix(".png")
        if path.suffix.lower() in SUFFIXES and mask.exists():
            found[path.relative_to(images).with_suffix("").as_posix()] = (path, mask)
    if not found:
        raise DataError(f"no image in {images} has a mask of the same name (.png) in {masks}. Check both folders.")
    return found


def _read_classes(path: Path) -> tuple[str, ...]:
    """One name per line, the first for label 0; or "number name" or "number: name" as the releases have it."""
    names: dict[int, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        first, _, rest = line.strip().partition("\t" if "\t" in line else ":" if ":" in line else " ")
        if first.strip().isdigit() and rest.strip():
            names[int(first)] = rest.strip()
        elif line.strip():
            names[number] = line.strip()
    if not names:
        raise DataError(f"{path} names no class. Write one name per line, the first for label 0.")
    return tuple(names.get(number, f"class {number}") for number in range(max(names) + 1))


class _Folder(Dataset):
    def __init__(self, pairs: dict[str, tuple[Path, Path]], classes: tuple[str, ...]) -> None:
        self._pairs, self._classes = pairs, classes

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes

    def ids(self) -> Sequence[str]:
        return list(self._pairs)


@register
class IndexPNG(_Folder):
    """Label maps of class numbers, as COCO-Stuff and ADE20K store them.

    `images/` and `annotations/` with the same inner folders and names, and `classes.txt`. Numbers without a name, and
    `void`, are void.
    """

    name = "index-png"
    summary = "images/, annotations/ of class numbers and classes.txt (COCO-Stuff, ADE20K)"
    task = "multi"
    source = (
        "It must hold images/, annotations/ (index PNGs of the same names) and classes.txt (one name per line). "
        "COCO-Stuff: https://github.com/nightrome/cocostuff. ADE20K: https://ade20k.csail.mit.edu."
    )

    def __init__(self, pairs: dict[str, tuple[Path, Path]], classes: tuple[str, ...], void: int, first: int) -> None:
        super().__init__(pairs, classes)
        self._void, self._first = void, first

    @classmethod
    def open(cls, root: Path | None, *, void: int = 255, first: int = 0, **options: Any) -> IndexPNG:
        """`void`: the number of unlabelled pixels; `first`: the number of the first class (1 for ADE20K, 0 = void)."""
        images, masks = require(root, "images", cls), require(root, "annotations", cls)
        return cls(_pairs(images, masks), _read_classes(require(root, "classes.txt", cls)), void, first)

    def sample(self, id_: str) -> Sample:
        picture, mask = self._pairs[id_]
        stored = open_labels(mask)
        labels = stored - self._first
        labels[(stored == self._void) | (labels < 0) | (labels >= len(self._classes))] = VOID
        present = tuple(self._classes[c] for c in np.unique(labels) if c != VOID)
        if not present:
            raise DataError(f"{mask} has no labelled pixel. Check void= and first=.")
        return Sample(id_, open_picture(picture), labels, present)


@register
class OwnFolder(_Folder):
    """Your own pictures: `images/` and `masks/`, where a mask is white (not 0) on the target and 0 elsewhere.

    The target's name is the picture's folder (`images/cat/1.jpg`), or the file name up to the first digit, dash or
    underscore (`cat-1.jpg`).
    """

    name = "folder"
    summary = "your own images/ and masks/ (white on the target), named cat-1.jpg or cat/1.jpg"
    task = "single"
    source = "It must hold images/ and masks/ with the same names, for example images/cat-1.jpg and masks/cat-1.png."

    @classmethod
    def open(cls, root: Path | None, **options: Any) -> OwnFolder:
        pairs = _pairs(require(root, "images", cls), require(root, "masks", cls))
        return cls(pairs, tuple(dict.fromkeys(_target(id_) for id_ in pairs)))

    def sample(self, id_: str) -> Sample:
        picture, mask = self._pairs[id_]
        image, labels = open_picture(picture), (open_labels(mask) > 0).astype(np.int32)
        if labels.shape != (image.height, image.width):
            raise DataError(
                f"{mask} is {labels.shape[1]}x{labels.shape[0]} pixels, its image {image.width}x{image.height}. "
                "Make them equal."
            )
        return Sample(id_, image, labels, (_target(id_),))


def _target(id_: str) -> str:
    folder, _, stem = id_.rpartition("/")
    if folder:
        return folder.rpartition("/")[2].replace("_", " ")
    end = next((i for i, c in enumerate(stem) if c.isdigit() or c in "-_"), len(stem))
    name = stem[:end].strip()
    if not name:
        raise DataError(f"no target in the file name {stem!r}. Name it cat-1, or put it in a folder cat/.")
    return name
