"""Attend-and-Excite: every subject owns a place in the picture.

Chefer et al., "Attend-and-Excite: Attention-Based Semantic Guidance for Text-to-Image Diffusion Models", SIGGRAPH 2023,
arXiv 2301.13826, equations 1 to 3. The loss is that of the most neglected subject, `max_s (1 - max_x A_s(x))`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from conceptlens.guidance.base import AlphaSchedule, Guidance, Maps, Objective
from conceptlens.guidance.settings import kernel
from conceptlens.ops.alignment import neglect
from conceptlens.values.errors import RecipeError
from conceptlens.watch.prompt_text import PromptText


@dataclass(frozen=True, kw_only=True)
class AttendAndExcite(Guidance):
    """Attend-and-Excite with the published step size, schedule and thresholds (0.05, 0.5, 0.8 at steps 0, 10, 20).

    Attributes:
        words: the subjects, as words of the prompt or positions in the encoder's sequence; None: the last word of each
            run of words between function words ("a red house and a blue boat": house, boat).
        smoothing: (kernel size, sigma) of the maps.
    """

    name: ClassVar[str] = "attend-and-excite"

    alpha_schedule: AlphaSchedule = "sqrt_linear"
    inner: Mapping[int, int] = field(default_factory=lambda: {0: 20, 10: 20, 20: 20})
    bounds: Mapping[int, float] = field(default_factory=lambda: {0: 0.95, 10: 0.5, 20: 0.2})
    words: Sequence[str | int] | None = None
    smoothing: tuple[int, float] = (3, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("smoothing", kernel(self.smoothing))

    def objective(self, text: PromptText) -> Objective:
        places = [g[-1] for g in text.groups(None)] if self.words is None else list(text.find(self.words))
        if not places:
            raise RecipeError(f"no subject was found in the prompt {text.prompt!r}. Name the words to attend to.")

        def loss(maps: Maps, _before: Maps | None) -> Tensor:
            return neglect(maps, places, self.smoothing)

        return loss
