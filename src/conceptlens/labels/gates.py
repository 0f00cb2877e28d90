"""Quality gates: what is measured of each word's mask, and what it must be for the mask to become a label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Bool

from conceptlens.values.errors import RecipeError

Mask = Bool[np.ndarray, "height width"]
GATES = ("presence", "flip", "doubt", "area")
"""What a word can be rejected for, in this order."""


@dataclass(frozen=True)
class Gates:
    """Thresholds, all of them in 0..1.

    Attributes:
        presence: least chance that the word is in the picture at all (`conceptlens.presence`); only words that the
            model was calibrated for have one.
        flip: least intersection over union of the mask with that of the mirrored picture, mirrored back.
        doubt: greatest mean doubt inside the mask (`ConceptMaps.doubt`, 0..0.5).
        smallest: least share of the picture.
        largest: greatest share of the picture.
        every: a picture counts only when all of its words pass, else when one does.
    """

    presence: float = 0.5
    flip: float = 0.6
    doubt: float = 0.4
    smallest: float = 0.005
    largest: float = 0.95
    every: bool = False

    def __post_init__(self) -> None:
        """Raises a `RecipeError` for a threshold out of range."""
        for name in (field.name for field in fields(self) if field.name != "every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise RecipeError(f"the threshold {name} is a share or a chance, from 0 to 1; got {value!r}.")
        if self.smallest > self.largest:
            raise RecipeError(f"smallest is {self.smallest}, above largest, {self.largest}: no mask could pass.")

    def reasons(self, measured: Mapping[str, Any]) -> dict[str, str]:
        """Why a word is rejected, by gate; empty for one that passes.

        Args:
            measured: "presence", "flip", "doubt" and "area"; None, or nothing, for what could not be measured.
        """
        reasons = {}
        for name, least in (("presence", self.presence), ("flip", self.flip)):
            value = measured.get(name)
            if value is not None and value < least:
                reasons[name] = f"{value:.3g} is below {least:g}"
        if (doubt := measured.get("doubt")) is not None and doubt > self.doubt:
            reasons["doubt"] = f"{doubt:.3g} is above {self.doubt:g}"
        if (area := measured.get("area")) is not None and not (area and self.smallest <= area <= self.largest):
            side = "above" if area > self.largest else "below"
            bound = self.largest if area > self.largest else self.smallest
            reasons["area"] = f"{area:.3g} is {side} {bound:g}" if area else "the mask is empty"
        return reasons

    def passes(self, kept: int, asked: int) -> bool:
        """Whether a picture counts of which so many words passed, out of those that were asked for."""
        return kept == asked if self.every else kept > 0


def overlap(mask: Mask, other: Mask) -> float:
    """Intersection over union; 1 for two empty masks, which agree."""
    union = np.count_nonzero(mask | other)
    return np.count_nonzero(mask & other) / union if union else 1.0
