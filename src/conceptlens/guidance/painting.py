"""Pictures of a session, guided, with the maps that show why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from conceptlens.guidance.base import Guidance
from conceptlens.guidance.checks import check_options, check_pipeline
from conceptlens.guidance.driver import GuidedCall
from conceptlens.guidance.named import guidance_named
from conceptlens.guidance.result import GuidedMaps
from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.readers.orders import Order, Painting
from conceptlens.values.errors import RecipeError
from conceptlens.values.models import Pipeline
from conceptlens.values.words import check_prompts


def chosen_guidance(guide: Guidance | str | None, compare: bool) -> Guidance | None:
    """The guidance that `guide` is or names.

    Raises:
        RecipeError: for an unknown name, or a comparison with the plain picture where nothing is guided.
    """
    if compare and guide is None:
        raise RecipeError("compare shows the plain picture beside a guided one, and there is no guidance. Give guide.")
    return guidance_named(guide) if isinstance(guide, str) else guide


def check_guided(
    pipeline: Pipeline, guidance: Guidance, prompt: str | Sequence[str] | None, call: Mapping[str, Any]
) -> None:
    """Raises a `ModelError` or `RecipeError` for what could be painted, but not with guidance."""
    check_pipeline(pipeline, guidance)
    check_options(pipeline, [prompt] if isinstance(prompt, str) else check_prompts(prompt), call)


class GuidedPainter:
    """A painter whose latents are moved on the way: the same call and the same maps otherwise."""

    def __init__(self, painter: Painting, guidance: Guidance, *, compare: bool = False) -> None:
        """Wraps `painter`; with `compare` it also paints the plain picture of the same seed."""
        self._painter, self._guidance, self._compare = painter, guidance, compare

    @property
    def pipeline(self) -> Pipeline:
        """The diffusers pipeline."""
        return self._painter.pipeline

    def paint(self, order: Order) -> list[GuidedMaps]:
        """Maps of each picture of the order.

        Raises:
            RecipeError: for another branch than the prompt's, or as `GuidedCall`.
            ModelError: as `GuidedCall` and `Painter.paint`.
        """
        if order.recipe.branch != "prompt":
            raise RecipeError("a guided picture has maps of the prompt's own pass alone. Drop branch, or guide.")
        call, guided = self._paint(order, self._guidance)
        plain: Sequence[ConceptMaps | None] = [None] * len(guided)
        if self._compare:
            plain = self._paint(order, replace(self._guidance, alpha=0.0))[1]
        run = call.result([maps.image for maps in guided])
        pairs = zip(guided, plain, strict=True)
        return [GuidedMaps.of(maps, run, number, other) for number, (maps, other) in enumerate(pairs)]

    def _paint(self, order: Order, guidance: Guidance) -> tuple[GuidedCall, list[ConceptMaps]]:
        prompt = order.prompt if isinstance(order.prompt, str) else list(order.prompts)
        # Without a seed there is a generator of the caller's own, which the call refuses.
        call = GuidedCall(self._painter.pipeline, prompt, guidance, order.seed or 0, dict(order.pipeline))
        arguments = {name: value for name, value in call.arguments.items() if name != "prompt"}
        size = guidance.attention_size
        painted = self._painter.paint(replace(order, prompt=prompt, pipeline=arguments, seed=None, map_size=size))
        several = [maps for maps in painted if isinstance(maps, ConceptMaps)]  # no video model can be guided
        return call, [_seeded(maps, seed) for maps, seed in zip(several, call.seeds, strict=True)]


def _seeded(maps: ConceptMaps, seed: int) -> ConceptMaps:
    """The same, with the seed of the noise in maps and record: the painter was given a generator, and knows none."""
    record = None if maps.record is None else replace(maps.record, seed=seed)
    return replace(maps, seed=seed, record=record)
