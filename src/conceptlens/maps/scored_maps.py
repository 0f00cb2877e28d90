"""What the maps of a picture and those of a film have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from conceptlens.ops.grids import check_finite
from conceptlens.values.errors import ConceptError
from conceptlens.values.provenance import RunInfo


class ScoredMaps(ABC):
    """Scores of concepts on a grid of tokens, by name. Its leaves are data classes with these fields and others."""

    concepts: tuple[str, ...]
    scores: Tensor
    background: tuple[str, ...]
    run_info: RunInfo

    @abstractmethod
    def describe(self) -> str:
        """One line that says how these maps were made."""

    def __post_init__(self) -> None:
        """Refuses maps that hold NaN or infinity (`ScoreError`): what readers and methods give ends up here."""
        check_finite(self.scores)

    @property
    def asked(self) -> tuple[str, ...]:
        """The concepts that were asked for, without those of `background`."""
        return self.concepts[: len(self.concepts) - len(self.background)]

    @property
    def details(self) -> Mapping[str, Any]:
        """`run_info` as plain JSON values, without what does not apply: `maps.details["tokens"]`."""
        return self.run_info.to_dict()

    def __getitem__(self, concept: str) -> Float[Tensor, "*grid"]:
        """The scores of one concept on the token grid: (rows, cols), of a film (latent frame, rows, cols).

        Raises:
            ConceptError: for a concept that has no map.
        """
        if concept not in self.concepts:
            raise ConceptError(f"no map of {concept!r}. These maps are of: {', '.join(self.concepts)}.")
        return self.scores[self.concepts.index(concept)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.asked)

    def __contains__(self, concept: object) -> bool:
        return concept in self.concepts

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(self.asked)} · {self.describe()}>"
