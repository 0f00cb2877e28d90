"""ADE20K, the 150 classes of the scene parsing challenge (Zhou et al., CVPR 2017): `ADEChallengeData2016`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conceptlens.bench.datasets import register
from conceptlens.bench.datasets._class_list import read_classes
from conceptlens.bench.datasets.base import (
    VOID,
    DataError,
    Dataset,
    Sample,
    looked_up,
    open_labels,
    open_picture,
    present_in,
    require,
)


@register
class ADE20K(Dataset):
    """Validation images; 0 on disk is "other", which is void.

    Names are the first of the synonyms in `objectInfo150.txt` ("building, edifice" is building), but where two classes
    share it.
    """

    name = "ade20k"
    summary = "ADE20K validation, 2,000 images, 150 classes (ADEChallengeData2016)"
    task = "multi"
    source = "Get ADEChallengeData2016.zip (1 GB) from http://sceneparsing.csail.mit.edu/ and unpack it."

    def __init__(self, base: Path, split: str, names: Mapping[int, str]) -> None:
        self._pictures, self._maps = base / "images" / split, base / "annotations" / split
        self._names = first_synonyms(names)
        self._places = {0: VOID} | {number: place for place, number in enumerate(self._names)}

    @classmethod
    def open(cls, root: Path | None, *, split: str = "validation", **options: Any) -> ADE20K:
        inside = root is not None and (root / "objectInfo150.txt").exists()
        base = root if root is not None and inside else require(root, "ADEChallengeData2016", cls)
        for folder in ("images", "annotations"):
            require(base, f"{folder}/{split}", cls)
        names = read_classes(require(base, "objectInfo150.txt", cls))
        if min(names) < 1:
            raise DataError(f"{base / 'objectInfo150.txt'} numbers a class 0, which is no class. Restore the file.")
        return cls(base, split, names)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self._names.values())

    def ids(self) -> Sequence[str]:
        return sorted(path.stem for path in self._maps.glob("*.png"))

    def sample(self, id_: str) -> Sample:
        path = self._maps / f"{id_}.png"
        labels = looked_up(open_labels(path), self._places, path)
        present = present_in(labels)
        return Sample(id_, open_picture(self._pictures / f"{id_}.jpg"), labels, present)


def first_synonyms(names: Mapping[int, str]) -> dict[int, str]:
    """The first of several names with commas between; all of them where the first is another class's too."""
    first = {number: name.split(",")[0].strip() for number, name in names.items()}
    every = list(first.values())
    return {number: word if every.count(word) == 1 else names[number] for number, word in first.items()}
