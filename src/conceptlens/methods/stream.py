"""What the three methods share that read a diffusion transformer's concept stream: all but the space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.methods.base import MethodInfo, SaliencyMethod
from conceptlens.session import Session, load
from conceptlens.values.models import Pipeline
from conceptlens.values.recipe import Space


class StreamMethod(SaliencyMethod):
    """One partial forward of the noised image, then a probe in the leaf's `space`."""

    space: ClassVar[Space]
    info = MethodInfo(text_conditioned=True)

    def __init__(self, session: Session, *, preset: str | None = None, **options: Any) -> None:
        """On an open session; `options` are fields of `Recipe`, all but `space`."""
        session.require("follow")
        options.pop("space", None)
        self._session, self._preset, self._options = session, preset, {**options, "space": self.space}
        self._recipe = session.recipe(preset, **self._options)

    @classmethod
    def load(
        cls,
        model: str | Path | Pipeline | None = None,
        *,
        device: str | None = None,
        single_stream: bool = False,
        **options: Any,
    ) -> StreamMethod:
        return cls(load(model, device=device, single_stream=single_stream), **options)

    @property
    def session(self) -> Session:
        """The model it reads."""
        return self._session

    @property
    def model_id(self) -> str:
        return self._session.model_id

    @property
    def background(self) -> tuple[str, ...]:
        return self._session.reader.defaults.background

    @property
    def settings(self) -> Mapping[str, Any]:
        return {**self._recipe.to_dict(), "single_stream": self._session.single_stream}

    def explain(self, image: Image.Image, concepts: Sequence[str], *, prompt: str = "", seed: int = 0) -> ConceptMaps:
        record = self._session.read(image, prompt=prompt, seed=seed, preset=self._preset, **self._options)
        return self._session.probe(record, concepts)
