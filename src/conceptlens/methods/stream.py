"""What the three methods share that read a diffusion transformer's concept stream: all but the space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.methods.base import MethodInfo, Question, SaliencyMethod
from conceptlens.readers.pictures import in_batches
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
        return self.explain_all([Question(image, tuple(concepts), prompt, seed)])[0]

    def explain_all(self, questions: Sequence[Question]) -> list[ConceptMaps]:
        """See `SaliencyMethod.explain_all`; pictures of one size and prompt are read together, and asked together."""
        count = len(questions)
        records = self._session.read(
            [each.image for each in questions],
            prompt=[each.prompt for each in questions],
            seed=[each.seed for each in questions],
            preset=self._preset,
            batch=count,
            **self._options,
        )
        maps: dict[int, ConceptMaps] = {}
        for places in in_batches(questions, lambda each: each.concepts, count):
            asked = [records[place] for place in places]
            maps |= zip(places, self._session.probe(asked, questions[places[0]].concepts, batch=count), strict=True)
        return [maps[place] for place in range(count)]

    def texts_held(self) -> AbstractContextManager[None]:
        return self._session.reader.texts_held()
