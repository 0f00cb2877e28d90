"""A running mean of scores over layers and steps, in O(1) memory."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Scores = Float[Tensor, "batch concept image"]


class ScoreAccumulator:
    """Sums scores in place on their own device; keeps the parts only when asked to.

    Attributes:
        count: how many layer-steps went in.
        parts: with `keep`, the scores by (step, layer).
    """

    def __init__(self, *, keep: bool = False) -> None:
        self.count = 0
        self.parts: dict[tuple[int, int], Tensor] = {}
        self._keep = keep
        self._total: Tensor | None = None

    def add(self, step: int, layer: int, scores: Scores) -> None:
        if self._total is None:
            self._total = torch.zeros_like(scores)
        self._total += scores
        self.count += 1
        if self._keep:
            self.parts[step, layer] = scores

    def mean(self) -> Scores:
        """The mean so far.

        Raises:
            ValueError: when nothing was added.
        """
        if self._total is None:
            raise ValueError("no scores were added")
        return self._total / self.count
