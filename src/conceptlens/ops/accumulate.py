"""Running means of scores, in O(1) memory: over layers and steps; over noise draws with their spread."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

Scores = Float[Tensor, "batch concept image"]


class ScoreAccumulator:
    """Sums scores in place on their own device; keeps the parts only when asked to, or when they are to be weighed.

    Attributes:
        count: how many layer-steps went in.
        parts: with `keep`, the scores by (step, layer).

    Args:
        keep: keep the parts.
        finish: applied to the mean, and to each part.
        weigh: the mean of all parts, (part, batch, concept, image), in place of the plain one.
    """

    def __init__(
        self,
        *,
        keep: bool = False,
        finish: Callable[[Scores], Scores] | None = None,
        weigh: Callable[[Float[Tensor, "part batch concept image"]], Scores] | None = None,
    ) -> None:
        self.count = 0
        self.parts: dict[tuple[int, int], Tensor] = {}
        self._keep, self._finish = keep, finish or (lambda scores: scores)
        self._total: Tensor | None = None
        self._weigh = weigh
        self._weighed: list[Tensor] = []

    def add(self, step: int, layer: int, scores: Scores) -> None:
        if self._total is None:
            self._total = torch.zeros_like(scores)
        self._total += scores
        self.count += 1
        if self._weigh is not None:
            self._weighed.append(scores)
        if self._keep:
            self.parts[step, layer] = self._finish(scores)

    def mean(self) -> Scores:
        """The mean so far.

        Raises:
            ValueError: when nothing was added.
        """
        if self._total is None:
            raise ValueError("no scores were added")
        mean = self._total / self.count if self._weigh is None else self._weigh(torch.stack(self._weighed))
        return self._finish(mean)


class RunningMoments:
    """Mean and variance of maps that come one after another (Welford's method): two maps in memory, however many came.

    Attributes:
        count: how many maps went in.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: Tensor | None = None
        self._squares: Tensor | None = None

    def add(self, scores: Float[Tensor, "*map"]) -> None:
        if self._mean is None or self._squares is None:
            self._mean, self._squares = torch.zeros_like(scores), torch.zeros_like(scores)
        self.count += 1
        off = scores - self._mean
        self._mean = self._mean + off / self.count
        self._squares = self._squares + off * (scores - self._mean)

    @property
    def mean(self) -> Float[Tensor, "*map"]:
        """The mean so far.

        Raises:
            ValueError: when nothing was added.
        """
        if self._mean is None:
            raise ValueError("no scores were added")
        return self._mean

    @property
    def spread(self) -> Float[Tensor, "*map"] | None:
        """The standard deviation of one map (n - 1 in the denominator); None for fewer than two maps."""
        if self._squares is None or self.count < 2:
            return None
        return (self._squares / (self.count - 1)).sqrt()


def moments(maps: Iterable[Float[Tensor, "*map"]]) -> RunningMoments:
    """Mean and spread of all maps."""
    statistics = RunningMoments()
    for scores in maps:
        statistics.add(scores)
    return statistics
