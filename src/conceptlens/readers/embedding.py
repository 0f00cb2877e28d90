"""Concepts through a pipeline's text encoders, each list once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from conceptlens.families.base import Concepts
from conceptlens.readers.loading import LoadedModel
from conceptlens.readers.text_side import missing_encoders, text_encoders
from conceptlens.values.errors import ModelError
from conceptlens.values.recipe import Recipe
from conceptlens.watch.surroundings import usual_defaults

_MOST = 256
"""Lists that are remembered."""


class ConceptEmbedder:
    """Remembers what the text encoders made of concepts: until `renew`, and for good where they are gone since."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._known: dict[Any, Concepts] = {}
        self._current: set[Any] = set()
        self._held = 0

    def renew(self) -> None:
        """Encodes anew from now on, since weights may have changed: which inside `held` they have not."""
        if not self._held:
            self._current.clear()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside it weights do not change."""
        self.renew()
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    @usual_defaults()
    def __call__(self, names: tuple[str, ...], recipe: Recipe, options: Mapping[str, Any]) -> Concepts:
        """Concepts as the transformer gets them; `options` are keywords of the pipeline's call.

        Raises:
            ConceptError: for one that the text encoders cannot read.
            ModelError: for text encoders that are gone, unless these very concepts were encoded before.
        """
        pipeline, length = self._model.pipeline, self._model.concept_length(options)
        key = (names, recipe.pooling, recipe.bos, recipe.padding, recipe.pooled, length)
        if key in self._current:
            return self._known[key]
        if len(self._known) >= _MOST:
            self._known.clear()
            self._current.clear()
        try:
            with text_encoders(pipeline):
                call = options if length is None else {**options, "max_sequence_length": length}
                embedded = self._model.adapter.embed(pipeline, names, recipe, call)
                self._known[key] = replace(embedded, length=length)
        except ModelError:
            if key not in self._known or not missing_encoders(pipeline):
                raise
        self._current.add(key)
        return self._known[key]
