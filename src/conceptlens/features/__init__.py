"""The image as a vision encoder: vectors of concepts and patches, and what they say, as arrays and small types.

Vectors are those that the method compares: attention outputs before the output projection, all heads concatenated
(arXiv 2502.04320, sections 4 and 5). They differ from block to block, so each block's stand apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from conceptlens.maps.positions import Place, Relation
from conceptlens.presence import Presence, presence
from conceptlens.readers.replay import check_picture
from conceptlens.session import Session
from conceptlens.values.errors import ConceptError
from conceptlens.values.records import ImageRecord
from conceptlens.watch.surroundings import usual_defaults

_SIDES = {"left": (0, -1), "right": (0, 1), "upper": (1, -1), "lower": (1, 1)}


@dataclass(frozen=True)
class Features:
    """What one picture says about some concepts.

    Attributes:
        concepts: their names.
        layers: the blocks, in order.
        concept_vectors: what each concept read in the picture, float32.
        patch_vectors: the picture itself, float32; the same whatever is asked.
        presence: whether each concept is there.
        places: box, centre and area by concept; where no other of the concepts scores higher.
        relations: how each pair lies.
        size: width and height of the picture in pixels.
    """

    concepts: tuple[str, ...]
    layers: tuple[int, ...]
    concept_vectors: Float[np.ndarray, "layer concept dim"]
    patch_vectors: Float[np.ndarray, "layer rows cols dim"]
    presence: tuple[Presence, ...]
    places: Mapping[str, Place]
    relations: tuple[Relation, ...]
    size: tuple[int, int]

    def vector(self, concept: str) -> Float[np.ndarray, "layer dim"]:
        """The vectors of one concept."""
        return self.concept_vectors[:, self._index(concept)]

    def is_there(self, concept: str) -> bool | None:
        """Whether a concept is in the picture; None for "cannot say", where nothing was calibrated."""
        chance = self.presence[self._index(concept)].chance
        return None if chance is None else chance > 0.5

    def is_at(self, concept: str, where: str) -> bool | None:
        """Whether a concept is in the picture with its centre in some half or quarter of it.

        Args:
            concept: its name.
            where: "left", "right", "upper", "lower", or two of them, such as "lower left".

        Returns:
            None for "cannot say".

        Raises:
            ConceptError: for another place, or a concept that was not asked.
        """
        words = where.split()
        if not words or not set(words) <= set(_SIDES):
            raise ConceptError(f"where must be of the words {', '.join(_SIDES)}; got {where!r}.")
        there, centre = self.is_there(concept), self.places[concept].centroid
        if not there or centre is None:
            return there and False
        off = [at / side - 0.5 for at, side in zip(centre, self.size, strict=True)]
        return all(off[axis] * sign > 0 for axis, sign in (_SIDES[word] for word in words))

    def _index(self, concept: str) -> int:
        if concept not in self.concepts:
            raise ConceptError(f"no features of {concept!r}. These are of: {', '.join(self.concepts)}.")
        return self.concepts.index(concept)


@usual_defaults()
def features(session: Session, record: ImageRecord, concepts: Sequence[str], **options: Any) -> Features:
    """Vectors, presence and places of concepts in a picture that was read.

    Args:
        session: the model.
        record: from `Session.read`; several noise draws are averaged.
        concepts: any words; as they read each other, their vectors depend on the list (`isolate=True` for none).
        **options: fields of `Recipe`, as for `Session.probe`.

    Raises:
        ConceptError: for an unusable list of concepts.
        RecipeError: for settings that need more than was recorded, or the record of a film.
        ModelError: for a record of another model, or a model whose concepts have no vectors.
    """
    session.require("vectors")
    check_picture(record, "features")
    maps = session.probe(record, concepts, background=False, **options)
    recipe = maps.recipe
    assert recipe is not None
    found = session.reader.vectors(record, maps.concepts, recipe)
    grid = (record.grid.rows, record.grid.cols)
    return Features(
        concepts=maps.concepts,
        layers=recipe.layers or (),
        concept_vectors=np.stack([_array(found[layer][0]) for layer in found]),
        patch_vectors=np.stack([_array(found[layer][1]).reshape(*grid, -1) for layer in found]),
        presence=presence(session, record, maps.concepts),
        places=maps.places(),
        relations=maps.relations(),
        size=maps.image.size,
    )


def _array(vectors: Float[Tensor, "token dim"]) -> Float[np.ndarray, "token dim"]:
    return vectors.float().cpu().numpy()
