"""What one call of `Session.generate` asks for: checked once, before anything runs."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from conceptlens.readers.call_settings import check_call
from conceptlens.readers.keeping import Keeping
from conceptlens.readers.loading import LoadedModel
from conceptlens.values.errors import ConceptError, RecipeError
from conceptlens.values.recipe import Recipe, check_seed
from conceptlens.values.words import check_concepts, check_prompts

Background = bool | Sequence[str]


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

    @classmethod
    def of(
        cls,
        model: LoadedModel,
        prompt: str | Sequence[str] | None,
        concepts: Sequence[str],
        recipe: Recipe,
        pipeline: Mapping[str, Any],
        *,
        background: Background = True,
        seed: int | None = None,
        keep: bool = False,
        keeping: Keeping | None = None,
    ) -> Order:
        """An order for `model`; a random seed is drawn where neither a seed nor a generator is given.

        Raises:
            ConceptError: for an unusable list of concepts.
            RecipeError: for no prompt, or a keyword that cannot be.
        """
        prompts = check_prompts(prompt, pipeline.get("prompt_embeds"))
        for name in ("output_type", "return_dict"):
            if name in pipeline:
                raise RecipeError(f"generate returns pictures with their maps; {name} cannot be set. Drop it.")
        check_call(model.pipeline, pipeline)
        negative = pipeline.get("negative_prompt")
        if not isinstance(prompt, str) and isinstance(negative, str):
            pipeline = {**pipeline, "negative_prompt": [negative] * len(prompts)}
        asked, added = with_background(model, concepts, background, recipe)
        if "generator" not in pipeline:
            seed = secrets.randbelow(2**31) if seed is None else check_seed(seed)
        elif seed is not None:
            raise RecipeError("both seed and generator were given. Give one of them.")
        return cls(prompt, tuple(prompts), asked, added, recipe, pipeline, seed, keep, keeping)

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


def with_background(
    model: LoadedModel, concepts: Sequence[str], background: Background, recipe: Recipe
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
    added = tuple(name for name in model.defaults.background if name != only)
    if added:
        warnings.warn(
            f"a softmax over the one concept {only!r} would be 1 everywhere; added {', '.join(added)} "
            "(background=False for none)",
            stacklevel=4,
        )
    return asked, added


def note_unknown(model: LoadedModel, names: tuple[str, ...]) -> None:
    """Warns of concepts outside the vocabulary of a model that has one."""
    known = model.defaults.vocabulary
    unknown = [n for n in names if known is not None and not set(n.lower().split()) <= set(known)]
    if unknown:
        warnings.warn(
            f"{model.model_id} was never trained on {', '.join(unknown)}; expect noise. It knows the words of "
            "session.vocabulary.",
            stacklevel=4,
        )
