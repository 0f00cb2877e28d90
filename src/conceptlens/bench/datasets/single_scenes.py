"""Storybook scenes with one object each: the small stand-in for ImageNet-Segmentation. No data to download."""

from __future__ import annotations

import numpy as np
from PIL import Image

from conceptlens.bench.datasets import register
from conceptlens.bench.datasets.base import Sample
from conceptlens.bench.datasets.generated import GeneratedScenes
from conceptlens.bench.datasets.scenes import GROUNDS, NOUNS, Scene, make_scene


def lone_object(seed: int) -> Scene:
    """The scene of a seed with one object in it; the nouns take turns."""
    return make_scene(seed, nouns=(NOUNS[seed % len(NOUNS)],))


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
        scene = lone_object(int(id_))
        target = NOUNS.index(scene.objects[0].noun)
        return Sample(id_, Image.fromarray(scene.image), (scene.labels == 0).astype(np.int32), (target,))
