"""One reading of a collage, asked for everything: each space, each set of layers, and who is there at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from conceptlens.bench.checkup.collages import Collage, Extents
from conceptlens.bench.checkup.extents import truth_of
from conceptlens.bench.checkup.scores import Spans, score_spans
from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.ops.grids import resize
from conceptlens.presence import standing
from conceptlens.session import Session
from conceptlens.values.errors import RecipeError
from conceptlens.values.recipe import Space
from conceptlens.values.records import ImageRecord
from conceptlens.values.words import ranked_words

SPACES: tuple[Space, ...] = ("output", "cross", "value")


class Looker:
    """Reads collages with one model.

    Attributes:
        usual_space: that of the model's usual recipe.
        spaces: those that the model has, the usual first.
        spans: sets of layers that are averaged.

    Args:
        session: the model.
        nouns: all of the checkup.
        side: of one picture, in pixels; that of the square which a U-Net reads.
    """

    def __init__(self, session: Session, nouns: Sequence[str], side: int) -> None:
        self._session, self._nouns = session, tuple(nouns)
        self._names = tuple(dict.fromkeys((*nouns, *ranked_words(session.vocabulary))))
        self._reading: dict[str, Any] = {"size": side} if "size" in session.reader.read_options else {}
        self._grounds = session.reader.defaults.background
        self.usual_space = session.recipe().space
        self.spaces = tuple(sorted(spaces_of(session), key=lambda space: space != self.usual_space))
        usual = session.recipe().layers or ()
        self.spans = spans_of(session.depth, usual)
        self._usual = span_name(usual)
        self._presence = presence_spans(self.spans, self._usual)

    def read(self, image: Image.Image, noise: float, seed: int) -> ImageRecord:
        """A record that answers for all layers and spaces."""
        widest: dict[str, Any] = (
            {"space": "cross"} if "cross" in self.spaces and not self._session.single_stream else {}
        )
        layers = range(self._session.depth)
        return self._session.read(image, seed=seed, noise=noise, layers=layers, **widest, **self._reading)

    def maps(
        self, record: ImageRecord, words: Sequence[str], **options: Any
    ) -> Float[Tensor, "layer concept rows cols"]:
        """The map of each layer alone."""
        if "follow" in self._session.can:
            parts = self._session.probe(record, words, keep=True, background=False, **options).parts
            assert parts is not None
            return parts.mean(dim=0)
        layers = [
            self._session.probe(record, words, background=False, layers=(layer,), **options).scores
            for layer in range(self._session.depth)
        ]
        rows, cols = (max(maps.shape[side] for maps in layers) for side in (1, 2))
        return torch.stack([resize(maps, rows, cols) for maps in layers])

    def scores(self, record: ImageRecord, collage: Collage, extents: Extents) -> dict[str, Any]:
        """By space and set of layers how well the maps say where each noun is; see `scores.score_spans`."""
        whole = all(extents[cell].all() for cell in collage.cells)
        words = self.words(collage, grounds=not whole)
        found = {}
        for space in self.spaces:
            maps = self.maps(record, words, **self._in(space))
            truth = truth_of(collage, extents, *maps.shape[-2:])
            found[space] = score_spans(maps, truth, len(collage.cells), self.spans)
        return found

    def words(self, collage: Collage, *, grounds: bool) -> tuple[str, ...]:
        """What is asked of a collage: its nouns, the absent one and, if wanted, what the model calls backgrounds."""
        nouns = (*collage.nouns, collage.absent)
        return (*nouns, *(name for name in self._grounds if name not in nouns)) if grounds else nouns

    def shown(self, image: Image.Image, collage: Collage, seed: int, recipe: Mapping[str, Any]) -> ConceptMaps:
        """Maps of a collage's nouns and its absent one in a recipe, for people to look at."""
        reading = {name: value for name, value in recipe.items() if name != "space"}
        space = self._in(recipe["space"]) if "space" in recipe else {}
        record = self._session.read(image, seed=seed, **reading, **space, **self._reading)
        nouns = self.words(collage, grounds=False)
        grounds = [word for word in self.words(collage, grounds=True) if word not in nouns]
        return self._session.probe(record, nouns, background=grounds or False)

    def standings(self, record: ImageRecord) -> dict[str, list[float]]:
        """By set of layers the presence score of each noun in the usual space; see `conceptlens.presence.standing`.

        A model that is asked layer by layer encodes every word for each of them, so it is asked in its usual layers.
        """
        alone: dict[str, Any] = {"softmax": False, "isolate": True, **self._in(self.usual_space)}
        if "follow" in self._session.can:
            raw = self.maps(record, self._names, **alone)
            means = {name: raw[list(layers)].mean(dim=0) for name, layers in self._presence.items()}
        else:
            layers = self.spans[self._usual]
            probed = self._session.probe(record, self._names, background=False, layers=layers, **alone)
            means = {self._usual: probed.scores}
        found = {}
        for name, mean in means.items():
            maps = mean.double().numpy()
            found[name] = [round(standing(maps[own], self._others(maps, own)), 4) for own in range(len(self._nouns))]
        return found

    def _others(self, maps: np.ndarray, own: int) -> np.ndarray:
        nulls = ranked_words(self._session.vocabulary)
        return maps[[row for row, name in enumerate(self._names) if row != own and name in nulls]]

    def _in(self, space: str) -> dict[str, Any]:
        return {"space": space} if len(self.spaces) > 1 else {}


def spaces_of(session: Session) -> tuple[Space, ...]:
    """The spaces that a model's recipes may name."""
    found = []
    for space in SPACES:
        try:
            session.recipe(space=space)
        except RecipeError:
            continue
        found.append(space)
    return tuple(found)


def spans_of(depth: int, usual: Sequence[int] = ()) -> dict[str, tuple[int, ...]]:
    """Sets of layers by name: each alone, runs of neighbours, and the usual ones.

    Of up to eight layers the runs are all there are; of more those between eight marks.
    """
    marks = sorted({round(mark * depth / 8) for mark in range(9)}) if depth > 8 else list(range(depth + 1))
    runs = [tuple(range(first, last)) for first in marks for last in marks if last > first]
    singles = [(layer,) for layer in range(depth)]
    return {span_name(layers): layers for layers in (*singles, *runs, tuple(usual)) if layers}


def presence_spans(spans: Spans, usual: str) -> dict[str, Sequence[int]]:
    """Those of some sets of layers in which presence is scored, which takes long: each layer alone, and the usual."""
    return {name: layers for name, layers in spans.items() if len(layers) == 1 or name == usual}


def span_name(layers: Sequence[int]) -> str:
    """Of layer 3 the text 3, of neighbours 3-5, of others 1,4."""
    first, last = layers[0], layers[-1]
    if tuple(layers) != tuple(range(first, last + 1)):
        return ",".join(map(str, layers))
    return str(first) if first == last else f"{first}-{last}"
