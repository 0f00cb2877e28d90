"""Dataset: images with label maps, addressed by id."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Integer
from PIL import Image

from conceptlens.values.errors import ConceptlensError, one_line
from conceptlens.values.pictures import DAMAGED, as_rgb, upright

Task = Literal["single", "multi"]
VOID = -1
"""The label of pixels that have none."""


class DataError(ConceptlensError, ValueError):
    """A dataset, or one image of it, is missing or damaged."""


@dataclass(frozen=True)
class Sample:
    """One image with its truth.

    Attributes:
        id: unique within the dataset.
        image: RGB, any size.
        labels: for a "single" dataset 1 = the target, 0 = background; for a "multi" dataset an index into the dataset's
            classes; -1 = void (no label).
        present: what is there, as places in the dataset's `classes`: the target; or the classes that have a pixel,
            without the background.

    Raises:
        DataError: when the labels are not of the image's size, or all void.
    """

    id: str
    image: Image.Image
    labels: Integer[np.ndarray, "height width"]
    present: tuple[int, ...]

    def __post_init__(self) -> None:
        height, width = self.labels.shape
        if (width, height) != self.image.size:
            raise DataError(
                f"the label map of {self.id} is {width}x{height} pixels, its image {self.image.width}x"
                f"{self.image.height}. Make them equal."
            )
        if not (self.labels != VOID).any():
            raise DataError(f"the label map of {self.id} is all void: no pixel has a label. Leave the image out.")


class Dataset(ABC):
    """A folder on disk, or a generator, as samples by id.

    `name` is what the command line calls it; `task` "single" (one target against the rest) or "multi" (classes);
    `background` whether class 0 of a "multi" dataset is a background without a name to ask for; `source` where to get
    the data; `surroundings` words for what is around the target of a "single" dataset, where a protocol's own words
    ("floor", "face") would mean nothing; `as_read` that a target is asked for as `Session.read` does by itself: without
    a prompt that names it, against the words that the model has for a background.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    task: ClassVar[Task]
    background: ClassVar[bool] = False
    source: ClassVar[str] = ""
    surroundings: ClassVar[tuple[str, ...]] = ()
    as_read: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def open(cls, root: Path | None, **options: Any) -> Dataset:
        """Looks for the data under `root`.

        Raises:
            DataError: when it is not there: what was looked for, where, and where to get it.
        """

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Names of the labels of a "multi" dataset, by number, no two alike; the targets of a "single" one."""

    @abstractmethod
    def ids(self) -> Sequence[str]:
        """All ids, in an order that never changes."""

    @abstractmethod
    def sample(self, id_: str) -> Sample:
        """One image.

        Raises:
            DataError: when it is missing or damaged.
        """


def require(root: Path | None, what: str, dataset: type[Dataset], *others: str) -> Path:
    """The path `what` under `root`, or else the first of `others`, one of which must exist.

    Raises:
        DataError: when none does.
    """
    if root is None:
        raise DataError(f"{dataset.name} needs its data: give --data FOLDER, which holds {what}. {dataset.source}")
    for path in (root / each for each in (what, *others)):
        if path.exists():
            return path
    raise DataError(f"{dataset.name} looked for {what} in {root} and found none. {dataset.source}")


def looked_up(
    stored: Integer[np.ndarray, "height width"], places: Mapping[int, int], path: Path
) -> Integer[np.ndarray, "height width"]:
    """Labels by the numbers that a file stores; a number in `places` may stand for `VOID`.

    Raises:
        DataError: for a number that is not in `places`.
    """
    numbers, inverse = np.unique(stored, return_inverse=True)
    for number in numbers.tolist():
        if number not in places:
            raise DataError(f"{path} holds {number}, which is the number of no class. Restore the file.")
    found = np.array([places[number] for number in numbers.tolist()], np.int32)
    return found[inverse].reshape(stored.shape)


def open_labels(path: Path) -> Integer[np.ndarray, "height width"]:
    """An index PNG as it is stored, palette numbers and all.

    Raises:
        DataError: when it is missing, damaged, or has colours in place of numbers.
    """
    return np.asarray(_open_map(path)).astype(np.int32)


def present_in(labels: Integer[np.ndarray, "height width"], *, background: bool = False) -> tuple[int, ...]:
    """The classes that a label map holds, in order; with a background, class 0, without it."""
    return tuple(int(place) for place in np.unique(labels) if place >= background)


def open_mask(path: Path) -> Integer[np.ndarray, "height width"]:
    """A mask of one target as labels: 0 where it is black, 1 elsewhere.

    With a palette its colours count, not their numbers: which number is white is up to the program that wrote the file.

    Raises:
        DataError: when it is missing, damaged, without a target, or has colours but no black among them.
    """
    stored = _open_map(path)
    values = np.asarray(stored.convert("RGB") if stored.mode == "P" else stored)
    target = values.astype(bool).reshape(*values.shape[:2], -1).any(axis=-1)
    if not target.any():
        raise DataError(f"{path} is all black: it marks no target. Draw the target in white, or leave the image out.")
    if stored.mode == "P" and target.all() and (values < 255).any():
        raise DataError(f"{path} has a palette without black for what is not the target. Save it in black and white.")
    return np.asarray(target).astype(np.int32)


def _open_map(path: Path) -> Image.Image:
    try:
        with Image.open(path) as opened:
            if opened.mode not in ("P", "L", "I", "I;16", "1"):
                raise DataError(
                    f"{path} has colours ({opened.mode}). Save a label map as a PNG of class numbers, a mask as one of "
                    "black and white."
                )
            opened.load()
            return upright(opened)
    except DataError:
        raise
    except DAMAGED as error:
        raise DataError(f"cannot read the label map {path} ({one_line(error)}). Restore the file.") from error


def open_picture(path: Path) -> Image.Image:
    """An RGB picture, as `conceptlens.maps.picture_files.open_image` gives it, of any size.

    Raises:
        DataError: when it is missing or damaged.
    """
    try:
        with Image.open(path) as opened:
            return as_rgb(opened)
    except DAMAGED as error:
        raise DataError(f"cannot read the image {path} ({one_line(error)}). Restore the file.") from error
