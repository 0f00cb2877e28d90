"""Storybook scenes with one object each: the small stand-in for ImageNet-Segmentation. No data to download."""

from __future__ import annotations

import numpy as np
from PIL import Image

from conceptlens.bench.datasets import register
from conceptlens.bench.datasets.base import Sample
from conceptlens.bench.datasets.generated import GeneratedScenes
from conceptlens.bench.datasets.scenes import GROUNDS, NOUNS, make_scene


@register
class SingleScenes(GeneratedScenes):
    """One object under a sky; the thirteen nouns take turns. "test" is never used for training or tuning."""

    name = "scenes-single"
    summary = "generated storybook scenes of one object each, with exact masks"
    task = "single"
    surroundings = ("sky", *GROUNDS)

    @property
    def classes(self) -> tuple[str, ...]:
        return NOUNS

    def sample(self, id_: str) -> Sample:
        number = int(id_) % len(NOUNS)
        scene = make_scene(int(id_), nouns=(NOUNS[number],))
        return Sample(id_, Image.fromarray(scene.image), (scene.labels == 0).astype(np.int32), (number,))
