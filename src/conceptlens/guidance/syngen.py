"""SynGen: a modifier's map should match its noun's and no other.

Rassin et al., "Linguistic Binding in Diffusion Models: Enhancing Attribute Correspondence through Attention Map
Alignment", NeurIPS 2023, arXiv 2306.08877, equations 1 to 4. The paper finds the pairs with a dependency parser; here
they are given, or found by adjacency, which is enough for prompts like "a red house and a blue boat".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from conceptlens.guidance.base import Guidance, Maps, Objective
from conceptlens.ops.alignment import binding
from conceptlens.values.errors import RecipeError
from conceptlens.watch.prompt_text import PromptText


@dataclass(frozen=True, kw_only=True)
class SynGen(Guidance):
    """SynGen with the published step size and steps.

    Attributes:
        groups: modifiers and their noun, the noun last, one list for each object; None: runs of words between function
            words.
    """

    name: ClassVar[str] = "syngen"

    groups: Sequence[Sequence[str | int]] | None = None

    def objective(self, text: PromptText) -> Objective:
        groups = text.groups(self.groups)
        if not any(len(group) > 1 for group in groups):
            raise RecipeError(
                f"SynGen binds modifiers to nouns, and {text.prompt!r} shows none. Give groups, the noun last in each."
            )

        def loss(maps: Maps, _before: Maps | None) -> Tensor:
            return binding(maps, groups, text.positions)

        return loss
