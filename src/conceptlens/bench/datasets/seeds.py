"""The ids of generated scenes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

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
