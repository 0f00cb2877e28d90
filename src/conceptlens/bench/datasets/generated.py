"""What data sets of generated scenes share: the split, and its seeds as ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from conceptlens.bench.datasets.base import DataError, Dataset
from conceptlens.bench.datasets.scenes import SPLITS

SCENES = 10_000_000
"""How many scenes a split has."""


class Seeds(Sequence[str]):
    """The seeds of a split as ids: ten million of them without ten million strings."""

    def __init__(self, first: int) -> None:
        self._seeds = range(first, first + SCENES)

    def __len__(self) -> int:
        return len(self._seeds)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [str(seed) for seed in self._seeds[index]]
        return str(self._seeds[index])


class GeneratedScenes(Dataset):
    """Scenes of one split, nothing to download; "test" is never used for training or tuning."""

    def __init__(self, split: str) -> None:
        if split not in SPLITS:
            raise DataError(f"no split {split!r} of the scenes. Known: {', '.join(SPLITS)}.")
        self.split = split

    @classmethod
    def open(cls, root: Path | None, *, split: str = "test", **options: Any) -> GeneratedScenes:
        return cls(split)

    def ids(self) -> Sequence[str]:
        return Seeds(SPLITS[self.split])
