"""Storybook scenes as a dataset: the embedded model's own world, with exact masks. No data to download."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from conceptlens.bench.datasets import register
from conceptlens.bench.datasets.base import DataError, Dataset, Sample
from conceptlens.bench.datasets.scenes import CONCEPTS, SPLITS, make_scene
from conceptlens.bench.datasets.seeds import Seeds


@register
class StorybookScenes(Dataset):
    """Scenes of one split; "test" is never used for training or tuning. Every pixel has a concept."""

    name = "scenes"
    summary = "generated storybook scenes with exact masks (the embedded model's world)"
    task = "multi"

    def __init__(self, split: str) -> None:
        if split not in SPLITS:
            raise DataError(f"no split {split!r} of the scenes. Known: {', '.join(SPLITS)}.")
        self.split = split

    @classmethod
    def open(cls, root: Path | None, *, split: str = "test", **options: Any) -> StorybookScenes:
        return cls(split)

    @property
    def classes(self) -> tuple[str, ...]:
        return CONCEPTS

    def ids(self) -> Sequence[str]:
        return Seeds(SPLITS[self.split])

    def sample(self, id_: str) -> Sample:
        scene = make_scene(int(id_))
        present = tuple(CONCEPTS.index(name) for name in scene.concepts)
        return Sample(id_, Image.fromarray(scene.image), np.array(present, np.int32)[scene.labels], present)
