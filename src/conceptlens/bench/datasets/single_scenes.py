"""Storybook scenes with one object each: the small stand-in for ImageNet-Segmentation. No data to download."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from conceptlens.bench.datasets import register
from conceptlens.bench.datasets.base import DataError, Dataset, Sample
from conceptlens.bench.datasets.scenes import GROUNDS, NOUNS, SPLITS, make_scene
from conceptlens.bench.datasets.seeds import Seeds


@register
class SingleScenes(Dataset):
    """One object under a sky; the thirteen nouns take turns. "test" is never used for training or tuning."""

    name = "scenes-single"
    summary = "generated storybook scenes of one object each, with exact masks"
    task = "single"
    surroundings = ("sky", *GROUNDS)

    def __init__(self, split: str) -> None:
        if split not in SPLITS:
            raise DataError(f"no split {split!r} of the scenes. Known: {', '.join(SPLITS)}.")
        self.split = split

    @classmethod
    def open(cls, root: Path | None, *, split: str = "test", **options: Any) -> SingleScenes:
        return cls(split)

    @property
    def classes(self) -> tuple[str, ...]:
        return NOUNS

    def ids(self) -> Sequence[str]:
        return Seeds(SPLITS[self.split])

    def sample(self, id_: str) -> Sample:
        number = int(id_) % len(NOUNS)
        scene = make_scene(int(id_), nouns=(NOUNS[number],))
        return Sample(id_, Image.fromarray(scene.image), (scene.labels == 0).astype(np.int32), (number,))
