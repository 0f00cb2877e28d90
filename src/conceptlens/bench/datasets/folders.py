"""Folders of images and masks: COCO-Stuff, ADE20K, or any pictures with masks."""

from __future__ import annotations

from collections.abc import Sequence
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
    open_labels,
    open_mask,
    open_picture,
    present_in,
    require,
)
from conceptlens.values.pictures import PICTURES


def _pairs(images: Path, masks: Path) -> dict[str, tuple[Path, Path]]:
    """Pictures and label maps that share a file name, by that name."""
    pairs: dict[str, tuple[Path, Path]] = {}
    for path in sorted(images.rglob("*")):
        id_ = path.relative_to(images).with_suffix("").as_posix()
        mask = masks / f"{id_}.png"
        if path.suffix.lower() in PICTURES and mask.exists():
            if id_ in pairs:
                raise DataError(f"{pairs[id_][0]} and {path} share the mask {mask}. Rename or remove one of them.")
            pairs[id_] = (path, mask)
    if not pairs:
        raise DataError(f"no image in {images} has a mask of the same name (.png) in {masks}. Check both folders.")
    return pairs


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

    `images/` and `annotations/` with the same inner folders and names, and `classes.txt` (see `read_classes`). Numbers
    without a name, numbers below the first, and `void`, are void.
    """

    name = "index-png"
    summary = "images/, annotations/ of class numbers and classes.txt (COCO-Stuff, ADE20K)"
    task = "multi"
    source = (
        "It must hold images/, annotations/ (index PNGs of the same names) and classes.txt (one name per line). "
        "COCO-Stuff: https://github.com/nightrome/cocostuff. ADE20K: https://ade20k.csail.mit.edu."
    )

    def __init__(self, pairs: dict[str, tuple[Path, Path]], names: dict[int, str], void: int | None) -> None:
        """`names`: by the numbers that the label maps hold; "" for none."""
        super().__init__(pairs, tuple(name for name in names.values() if name))
        self._void, self._last = void, max(names)
        self._places = np.full(self._last + 1, VOID, np.int32)
        self._places[[number for number, name in names.items() if name]] = range(len(self._classes))

    @classmethod
    def open(cls, root: Path | None, *, void: int | None = None, first: int | None = None, **options: Any) -> IndexPNG:
        """`void`: the number of unlabelled pixels, 255 where that is no class; `first`: the number that the label maps
        have for the first class, where it is not that of classes.txt (1 for ADE20K with a plain list of names).
        """
        for option, value in (("void", void), ("first", first)):
            if value is not None and not (isinstance(value, int) and value >= 0):
                raise DataError(f"{option} is a number in the label maps, 0 or more; got {value!r}.")
        images, masks = require(root, "images", cls), require(root, "annotations", cls)
        stored = read_classes(require(root, "classes.txt", cls))
        if first is not None:
            shift = first - min(number for number, name in stored.items() if name)
            stored = {number + shift: name for number, name in stored.items() if number + shift >= 0}
        pairs, names = _pairs(images, masks), dict(sorted(stored.items()))
        if void is None:
            _refuse_masks(pairs)
        return cls(pairs, names, 255 if void is None and not names.get(255) else void)

    def sample(self, id_: str) -> Sample:
        picture, mask = self._pairs[id_]
        stored = open_labels(mask)
        known = stored != self._void if self._void is not None else np.full(stored.shape, True)
        if (stored[known] > self._last).any():
            raise DataError(
                f"{mask} holds {stored[known].max()}; the last number of classes.txt is {self._last} (void: "
                f"{self._void}). Name it, leave its line empty, or say with first= which number the first class has."
            )
        labels = np.where(known, self._places[np.where(known, stored, 0)], VOID)
        present = present_in(labels)
        if not present:
            raise DataError(f"{mask} has no labelled pixel. Check void= and first=.")
        return Sample(id_, open_picture(picture), labels, present)


def _refuse_masks(pairs: dict[str, tuple[Path, Path]]) -> None:
    """Looks for a label map with more in it than the black and white of a mask.

    Raises:
        DataError: when there is none, and one is black and white.
    """
    mask = None
    for _, path in pairs.values():
        try:
            numbers = set(np.unique(open_labels(path)).tolist())
        except DataError:
            continue  # reported when its turn comes
        if numbers - {0, 255}:
            return
        mask = path if len(numbers) == 2 else mask
    if mask is not None:
        raise DataError(
            f"{mask} and all others hold nothing but 0 and 255: masks, not class numbers. Use conceptlens bench "
            "folder, or say void=255 if 255 is void."
        )


@register
class OwnFolder(_Folder):
    """Your own pictures: `images/` and `masks/`, where a mask is white (not black) on the target and black elsewhere.

    The target's name is the picture's folder (`images/cat/1.jpg`), or the file name up to the first digit, dash or
    underscore (`cat-1.jpg`).
    """

    name = "folder"
    summary = "your own images/ and masks/ (white on the target), named cat-1.jpg or cat/1.jpg"
    task = "single"
    as_read = True
    source = "It must hold images/ and masks/ with the same names, for example images/cat-1.jpg and masks/cat-1.png."

    @classmethod
    def open(cls, root: Path | None, **options: Any) -> OwnFolder:
        pairs = _pairs(require(root, "images", cls), require(root, "masks", cls))
        return cls(pairs, tuple(dict.fromkeys(_target(id_) for id_ in pairs)))

    def sample(self, id_: str) -> Sample:
        picture, mask = self._pairs[id_]
        return Sample(id_, open_picture(picture), open_mask(mask), (self.classes.index(_target(id_)),))


def _target(id_: str) -> str:
    folder, _, stem = id_.rpartition("/")
    if folder:
        return folder.rpartition("/")[2].replace("_", " ")
    end = next((i for i, c in enumerate(stem) if c.isdigit() or c in "-_"), len(stem))
    name = stem[:end].strip()
    if not name:
        raise DataError(f"no target in the file name {stem!r}. Name it cat-1, or put it in a folder cat/.")
    return name
