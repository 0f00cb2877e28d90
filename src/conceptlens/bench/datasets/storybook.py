"""Storybook scenes as a dataset: the embedded model's own world, with exact masks. No data to download."""

from __future__ import annotations

import numpy as np
from PIL import Image

from conceptlens.bench.datasets import register
from conceptlens.bench.datasets.base import Sample
from conceptlens.bench.datasets.generated import GeneratedScenes
from conceptlens.bench.datasets.scenes import CONCEPTS, make_scene


@register
class StorybookScenes(GeneratedScenes):
    """Scenes of one split; "test" is never used for training or tuning. Every pixel has a concept."""

    name = "scenes"
    summary = "generated storybook scenes with exact masks (the embedded model's world)"
    task = "multi"

    @property
    def classes(self) -> tuple[str, ...]:
        return CONCEPTS

    def sample(self, id_: str) -> Sample:
        scene = make_scene(int(id_))
        present = tuple(CONCEPTS.index(name) for name in scene.concepts)
        return Sample(id_, Image.fromarray(scene.image), np.array(present, np.int32)[scene.labels], present)
