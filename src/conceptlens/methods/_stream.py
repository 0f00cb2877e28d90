"""What the three methods share that read a diffusion transformer's concept stream: all but the space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from PIL import Image

from conceptlens.maps import ConceptMaps
from conceptlens.methods.base import SaliencyMethod
from conceptlens.recipe import Space
from conceptlens.session import Session


class StreamMethod(SaliencyMethod):
    """One partial forward of the noised image, then a probe in the leaf's `space`."""

    space: ClassVar[Space]

    def __init__(self, session: Session, **options: Any) -> None:
        self._session, self._options = session, {**options, "space": self.space}

    def explain(self, image: Image.Image, concepts: Sequence[str], *, prompt: str = "", seed: int = 0) -> ConceptMaps:
        record = self._session.read(image, prompt=prompt, seed=seed, **self._options)
        return self._session.probe(record, concepts)
