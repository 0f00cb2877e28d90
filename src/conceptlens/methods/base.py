"""SaliencyMethod: an image and concepts in, maps out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from PIL import Image

from conceptlens.maps import ConceptMaps
from conceptlens.session import Session


class SaliencyMethod(ABC):
    """One method on one model. Made once, asked for many images.

    `name` is what the command line calls it; `summary` is one line for listings.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    @abstractmethod
    def __init__(self, session: Session, **options: Any) -> None:
        """`options` are fields of `Recipe`."""

    @abstractmethod
    def explain(self, image: Image.Image, concepts: Sequence[str], *, prompt: str = "", seed: int = 0) -> ConceptMaps:
        """Maps of `concepts` in `image`, on the method's own grid; equal seeds give equal maps."""
