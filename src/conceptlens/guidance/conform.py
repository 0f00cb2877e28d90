"""CONFORM: maps of words that belong together attract, all others repel.

Meral et al., "CONFORM: Contrast is All You Need for High-Fidelity Text-to-Image Diffusion Models", CVPR 2024,
arXiv 2312.06059. NT-Xent over the maps of this step and of the guided step before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from conceptlens.guidance.base import AlphaSchedule, Guidance, Maps, Objective
from conceptlens.guidance.settings import kernel, number
from conceptlens.ops.alignment import contrast, smooth
from conceptlens.values.errors import RecipeError
from conceptlens.watch.prompt_text import PromptText


@dataclass(frozen=True, kw_only=True)
class Conform(Guidance):
    """CONFORM with the step size, schedule and temperature of its authors' examples.

    Without the maps of a step before, on the first guided step, groups of one word have nothing to attract them; if all
    are, that step's gradient is zero.

    Attributes:
        groups: words that belong together, one list for each object; None: runs of words between function words.
        temperature: of the contrast; smaller is sharper.
        smoothing: (kernel size, sigma) of the maps.
    """

    name: ClassVar[str] = "conform"

    steps: Sequence[int] = range(30)
    alpha_schedule: AlphaSchedule = "sqrt_linear"
    inner: Mapping[int, int] = field(default_factory=lambda: {0: 20, 10: 20, 20: 20})
    groups: Sequence[Sequence[str | int]] | None = None
    temperature: float | int = 0.5
    smoothing: tuple[int, float] = (3, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("temperature", number("temperature", self.temperature, "a finite number above 0", lambda v: v > 0))
        self._set("smoothing", kernel(self.smoothing))

    def objective(self, text: PromptText) -> Objective:
        groups = text.groups(self.groups)
        if len(groups) < 2:
            raise RecipeError(
                f"CONFORM contrasts two or more groups of words; {text.prompt!r} gives {len(groups)}. Give groups."
            )
        words = [places for group in groups for places in group]
        labels = torch.tensor([n for n, group in enumerate(groups) for _ in group])

        def features(maps: Maps) -> Tensor:
            return smooth(torch.stack([maps[list(p)].mean(0) for p in words]), *self.smoothing).flatten(1)

        def loss(maps: Maps, before: Maps | None) -> Tensor:
            kinds = labels.to(maps.device)
            if before is None:
                return contrast(features(maps), kinds, self.temperature)
            return contrast(torch.cat([features(maps), features(before)]), kinds.repeat(2), self.temperature)

        return loss
