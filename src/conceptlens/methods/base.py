"""SaliencyMethod: an image and concepts in, maps out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from conceptlens.maps.image_maps import ConceptMaps


@dataclass(frozen=True)
class MethodInfo:
    """What a method needs and what its maps depend on.

    Attributes:
        text_conditioned: maps differ from concept to concept; otherwise every concept gets the same map.
        class_conditioned: maps follow a class that the backbone itself predicts or is given.
        needs_grad: a backward pass is part of the method.
        backbone: the checkpoint it is opened with by default; None: the embedded demo model.
    """

    text_conditioned: bool
    class_conditioned: bool = False
    needs_grad: bool = False
    backbone: str | None = None


@dataclass(frozen=True)
class Question:
    """What a method is asked about one image; see `SaliencyMethod.explain`."""

    image: Image.Image
    concepts: tuple[str, ...]
    prompt: str = ""
    seed: int = 0


class SaliencyMethod(ABC):
    """One method on one model. Opened once, asked for many images.

    `name` is what the command line calls it; `summary` is one line for listings.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    info: ClassVar[MethodInfo]

    @classmethod
    @abstractmethod
    def load(cls, model: str | Path | None = None, *, device: str | None = None, **options: Any) -> SaliencyMethod:
        """Opens the method on a model.

        Args:
            model: a hub id or a folder; the method's own backbone when None.
            device: "cuda", "cpu", ...; CUDA where there is one.
            **options: the method's settings; an unknown one is a `RecipeError`.

        Raises:
            ModelError: when the model cannot be loaded or has the wrong class.
            RecipeError: for impossible settings.
        """

    @property
    @abstractmethod
    def model_id(self) -> str:
        """The hub id or folder of the model; "demo" for the embedded one."""

    @property
    def background(self) -> tuple[str, ...]:
        """Words for what is around a target, where the model has its own; they compete with a word asked alone."""
        return ()

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Every setting that the maps depend on, as plain JSON values."""

    @abstractmethod
    def explain(self, image: Image.Image, concepts: Sequence[str], *, prompt: str = "", seed: int = 0) -> ConceptMaps:
        """Maps of `concepts` in `image`: raw scores on the method's own grid; equal seeds give equal maps."""

    def explain_all(self, questions: Sequence[Question]) -> list[ConceptMaps]:
        """Answers to several questions, as `explain` gives them; together where the method can."""
        return [self.explain(each.image, each.concepts, prompt=each.prompt, seed=each.seed) for each in questions]

    def texts_held(self) -> AbstractContextManager[None]:
        """Inside it the weights of the method do not change, so that a text need not be encoded again."""
        return nullcontext()
