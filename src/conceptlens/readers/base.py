"""Reader: one kind of model, watched, kept as a record, and asked. What a session does, it does through this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from conceptlens.readers.frames import FrameRoom
from conceptlens.readers.loading import Defaults
from conceptlens.readers.orders import Order, Painting, Request
from conceptlens.readers.pictures import Reading
from conceptlens.values.errors import ModelError, RecipeError
from conceptlens.values.models import Pipeline
from conceptlens.values.provenance import RunInfo
from conceptlens.values.recipe import REFINEMENTS, Recipe, Refinement
from conceptlens.values.records import ImageRecord, LayerRecord, R
from conceptlens.watch.surroundings import execution_device

Verb = Literal["generate", "record", "read", "probe", "follow", "vectors"]
"""What a kind of model may be able to do; see `_PHRASES`."""
_PHRASES: dict[Verb, str] = {
    "generate": "paint with maps",
    "record": "keep a record of what it paints",
    "read": "read a picture",
    "probe": "be asked about a picture again",
    "follow": "carry concepts through a text stream",
    "vectors": "give vectors of concepts",
}
Vectors = dict[int, tuple[Float[Tensor, "concept dim"], Float[Tensor, "image dim"]]]
"""By layer the vectors of concepts and of patches."""


@dataclass(frozen=True)
class Asking:
    """How records are asked for concepts.

    Attributes:
        recipe: with concrete layers, that were recorded.
        options: some of `Reader.probe_options`.
        keep: also keep the scores of each step and layer.
        batch: how many records are asked at once, where this kind of model can.
    """

    recipe: Recipe
    options: Mapping[str, Any] = field(default_factory=dict)
    keep: bool = False
    batch: int = 1


@dataclass(frozen=True)
class Answer:
    """What a record says about some concepts.

    Attributes:
        scores: float32 on the CPU; the grid is (rows, cols), of a film (frames, rows, cols).
        info: the computation behind them.
        spread: their standard deviation over noise draws, where there are several.
        parts: with `keep`, the scores of each step and layer.
        matches: between the latent frames of a film whose queries were recorded (`conceptlens.ops.tracks`).
    """

    scores: Float[Tensor, "concept ... cols"]
    info: RunInfo
    spread: Float[Tensor, "concept ... cols"] | None = None
    parts: Float[Tensor, "step layer concept ... cols"] | None = None
    matches: Float[Tensor, "gap frame cell cell"] | None = None


class Reader(ABC, Generic[R]):
    """An open model of one kind.

    Attributes:
        can: what models of this kind can do. A session asks it first, and `require` is the one refusal.
        instead: by verb what to do where a model of this kind cannot.
        layer: the kind of layer that its records hold.
        read_options: keywords of `read` that are no fields of a recipe.
        probe_options: likewise of `probe`.
        refinements: what may refine the scores of such a model.
    """

    can: ClassVar[frozenset[Verb]]
    instead: ClassVar[Mapping[Verb, str]] = {}
    layer: type[R]
    read_options: ClassVar[frozenset[str]] = frozenset()
    probe_options: ClassVar[frozenset[str]] = frozenset()
    refinements: ClassVar[frozenset[Refinement]] = frozenset({"joint-bilateral"})

    def __init__(self, pipeline: Pipeline, model_id: str, defaults: Defaults) -> None:
        self.pipeline, self.model_id, self.defaults = pipeline, model_id, defaults

    @property
    @abstractmethod
    def family(self) -> str:
        """The name of the model's family, for listings."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """What the model is, with an article."""

    @property
    @abstractmethod
    def depth(self) -> int:
        """How many layers can be asked for."""

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return execution_device(self.pipeline)

    def require(self, verb: Verb) -> None:
        """Raises a `ModelError` for what this kind of model cannot do."""
        if verb not in self.can:
            remedy = self.instead.get(verb, "Use a diffusion transformer with a text stream (docs/models.md).")
            raise ModelError(f"{self.model_id} is {self.kind}, which cannot {_PHRASES[verb]}. {remedy}")

    @abstractmethod
    def default_recipe(self, preset: str | None) -> Recipe:
        """The settings of a call that names none. Raises a `RecipeError` for an unknown preset."""

    def check(self, recipe: Recipe) -> None:
        """Refuses what this model cannot do. Raises `RecipeError`."""
        unserved = [name for name in recipe.refine if name not in self.refinements]
        if unserved:
            known = ", ".join(name for name in REFINEMENTS if name in self.refinements)
            raise RecipeError(
                f"refine={unserved[0]!r} needs what the text stream of a model leaves behind, and {self.model_id} is "
                f"{self.kind}. It can be refined by: {known}."
            )

    def recipe(self, preset: str | None, options: Mapping[str, Any]) -> Recipe:
        """The settings of a call, with concrete layers.

        Raises:
            RecipeError: for an unknown preset or option, or a layer that the model does not have.
        """
        recipe = self.default_recipe(preset).override(dict(options)).resolve(self.depth)
        self.check(recipe)
        return recipe

    def order(self, request: Request) -> Order:
        """A request to paint, checked before anything runs. Raises as `Session.generate`."""
        self.require("generate")
        raise NotImplementedError

    def painter(self) -> Painting:
        """What paints orders. Raises a `ModelError` where the model cannot."""
        self.require("generate")
        raise NotImplementedError

    def frame_room(self, options: Mapping[str, Any]) -> FrameRoom | None:
        """How many frames of a film this model reads; None where it reads pictures alone.

        Args:
            options: some of `read_options`; `num_frames` is how many are read at most.

        Raises:
            RecipeError: for `num_frames` where only pictures can be read, or for an impossible one.
        """
        if "num_frames" in options:
            raise RecipeError(f"num_frames is of films, and {self.model_id} reads pictures. Leave it out.")
        return None

    @abstractmethod
    def read(
        self, image: Image.Image, prompt: str, recipe: Recipe, seed: int, options: Mapping[str, Any]
    ) -> ImageRecord:
        """Looks at a picture once.

        Args:
            image: RGB, of any size.
            prompt: what the model is told about it.
            recipe: from `recipe`.
            seed: of the noise.
            options: some of `read_options`.

        Raises:
            RecipeError: for impossible settings.
            ModelError: for a model that takes more than a picture and a text, or whose layers pass unseen.
        """

    def read_all(
        self, readings: Sequence[Reading], recipe: Recipe, options: Mapping[str, Any], batch: int
    ) -> list[ImageRecord]:
        """Looks at each of several pictures once, at most `batch` of them at a time where this kind of model can.

        Raises as `read`.
        """
        return [self.read(each.image, each.prompt, recipe, each.seed, options) for each in readings]

    @contextmanager
    def texts_held(self) -> Iterator[None]:
        """Inside it the weights of the text encoders do not change, so that a text need not be encoded again."""
        yield

    def layers_of(self, record: ImageRecord) -> tuple[R, ...]:
        """The layers of a record. Raises a `ModelError` for a record of another kind of model."""
        if not all(isinstance(layer, self.layer) for layer in record.layers):
            raise ModelError(self._foreign(record.layers[0]))
        return record.layers  # pyright: ignore[reportReturnType]

    def _foreign(self, layer: LayerRecord) -> str:
        return (
            f"this record holds what another kind of model left behind ({type(layer).__name__}), this one is "
            f"{self.kind}. Read the picture again."
        )

    @abstractmethod
    def probe(
        self,
        record: ImageRecord,
        names: tuple[str, ...],
        recipe: Recipe,
        options: Mapping[str, Any],
        keep: bool = False,
    ) -> Answer:
        """Scores of concepts in a recorded picture.

        Args:
            record: of a model of this kind.
            names: the concepts.
            recipe: with concrete layers, that were recorded.
            options: some of `probe_options`.
            keep: also keep the scores of each step and layer.

        Raises:
            ConceptError: for concepts that the text encoders cannot read.
            ModelError: for a record that does not fit the model.
        """

    def probe_all(self, records: Sequence[ImageRecord], names: tuple[str, ...], asking: Asking) -> list[Answer]:
        """Scores of the same concepts in each of several pictures.

        Raises as `probe`.
        """
        return [self.probe(record, names, asking.recipe, asking.options, asking.keep) for record in records]

    def vectors(self, record: ImageRecord, names: tuple[str, ...], recipe: Recipe) -> Vectors:
        """Output vectors of concepts and patches. Raises a `ModelError` where the model has none."""
        self.require("vectors")
        raise NotImplementedError
