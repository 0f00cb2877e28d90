"""What one call of `Session.generate` asks for: checked once, before anything runs."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch

from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.maps.video_maps import VideoMaps
from conceptlens.readers.call_settings import check_call
from conceptlens.readers.keeping import Keeping
from conceptlens.readers.loading import Defaults, LoadedModel
from conceptlens.values.errors import ConceptError, RecipeError
from conceptlens.values.models import Pipeline
from conceptlens.values.recipe import Recipe, check_seed
from conceptlens.values.words import check_concepts, check_prompts, ranked_words, singulars

Background = bool | Sequence[str]


@dataclass(frozen=True)
class Request:
    """What a caller of `Session.generate` said, not yet checked; see there.

    Attributes:
        prompt: what to paint.
        concepts: None for the prompt's own words, those that name things.
        background: words that compete without being shown.
        seed: None for a random one.
        keep: keep the scores of each step and layer.
        keeping: how the record is kept; None for no record.
        preset: of the recipe.
        settings: fields of the recipe.
        pipeline: keywords of the pipeline's call.
    """

    prompt: str | Sequence[str] | None
    concepts: Sequence[str] | None
    background: Background = True
    seed: int | None = None
    keep: bool = False
    keeping: Keeping | None = None
    preset: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    pipeline: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Order:
    """Pictures to paint in one call of the pipeline, and the concepts to map in them.

    Attributes:
        prompt: as the pipeline takes it; None with ready-made embeddings.
        prompts: a text for each prompt; empty ones for embeddings.
        concepts: those that were asked for.
        background: concepts that compete without being asked for.
        recipe: settings of the concept stream.
        pipeline: keywords of the pipeline's call besides the prompt, and a generator only where the caller has one.
        seed: of the noise; None with a generator in `pipeline`.
        keep: keep the scores of each step and layer.
        keeping: how the record is kept; None for no record.
        map_size: (rows, cols) of the cross-attention layers of a U-Net that are mapped; None for its usual ones.
    """

    prompt: str | Sequence[str] | None
    prompts: tuple[str, ...]
    concepts: tuple[str, ...]
    background: tuple[str, ...]
    recipe: Recipe
    pipeline: Mapping[str, Any]
    seed: int | None
    keep: bool = False
    keeping: Keeping | None = None
    map_size: tuple[int, int] | None = None

    @classmethod
    def of(cls, model: LoadedModel, request: Request, concepts: Sequence[str], recipe: Recipe) -> Order:
        """An order for `model`; a random seed is drawn where neither a seed nor a generator is given.

        Args:
            model: that will paint.
            request: what was asked for.
            concepts: those of the request, or what stands for them.
            recipe: likewise.

        Raises:
            ConceptError: for an unusable list of concepts.
            RecipeError: for no prompt, or a keyword that cannot be.
        """
        prompt, pipeline, seed = request.prompt, request.pipeline, request.seed
        prompts = check_prompts(prompt, pipeline.get("prompt_embeds"))
        for name in ("output_type", "return_dict"):
            if name in pipeline:
                raise RecipeError(f"generate returns pictures with their maps; {name} cannot be set. Drop it.")
        check_call(model.pipeline, pipeline)
        negative = pipeline.get("negative_prompt")
        if not isinstance(prompt, str) and isinstance(negative, str):
            pipeline = {**pipeline, "negative_prompt": [negative] * len(prompts)}
        asked, added = with_background(model.defaults, concepts, request.background, recipe)
        if "generator" not in pipeline:
            seed = secrets.randbelow(2**31) if seed is None else check_seed(seed)
        elif seed is not None:
            raise RecipeError("both seed and generator were given. Give one of them.")
        return cls(prompt, tuple(prompts), asked, added, recipe, pipeline, seed, request.keep, request.keeping)

    @property
    def names(self) -> tuple[str, ...]:
        """All concepts that have maps, in their order."""
        return (*self.concepts, *self.background)

    def arguments(self) -> dict[str, Any]:
        """Keywords of one call of the pipeline; a generator is used up by it, so each call has its own."""
        call = {"prompt": self.prompt, **self.pipeline}
        if self.seed is not None:
            call["generator"] = torch.Generator("cpu").manual_seed(self.seed)
        return call


@runtime_checkable
class Painting(Protocol):
    """What turns orders into pictures with their maps."""

    @property
    def pipeline(self) -> Pipeline:
        """The diffusers pipeline."""
        ...

    def paint(self, order: Order) -> Sequence[ConceptMaps | VideoMaps]:
        """Maps of each picture, or video, of the order."""
        ...


def with_background(
    defaults: Defaults, concepts: Sequence[str], background: Background, recipe: Recipe
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The asked concepts, and those that join them; see `Session.generate`.

    Raises:
        ConceptError: for an unusable list of either.
    """
    asked = check_concepts(concepts)
    if not isinstance(background, bool):
        added = tuple(name for name in check_concepts(background) if name not in asked)
        if not added:
            raise ConceptError(f"the background has no word besides {', '.join(asked)}. Name another.")
        return asked, added
    if len(asked) > 1 or not background or not recipe.softmax:
        return asked, ()
    only = next(iter(asked))
    added = tuple(name for name in defaults.background if name != only)
    if added:
        warnings.warn(
            f"one word alone would win everywhere, so {', '.join(added)} compete with {only!r}",
            stacklevel=4,
        )
    return asked, added


def note_unknown(model_id: str, defaults: Defaults, names: tuple[str, ...]) -> None:
    """Warns of concepts outside the vocabulary of a model that has one."""
    known = defaults.vocabulary
    unknown = [n for n in names if known is not None and not set(n.lower().split()) <= set(known)]
    if unknown:
        single = [one for name in unknown for one in singulars(name) if set(one.lower().split()) <= set(known or ())]
        instead = f"It knows {', '.join(single or ranked_words(known))}."
        warnings.warn(
            f"{model_id} was never trained on {', '.join(unknown)}; expect noise. {instead}",
            stacklevel=4,
        )
