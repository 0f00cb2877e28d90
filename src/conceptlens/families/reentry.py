"""Classes without an adapter of their own: their blocks are entered again (`families.kinds.reentry`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from conceptlens.families import register
from conceptlens.families.base import Concepts
from conceptlens.families.kinds.first_call import clean_latents, concepts_of, noised_call, noised_latents, side_of
from conceptlens.families.kinds.layouts import DUAL_LAYOUTS, SHARED_LAYOUTS, SINGLE_LAYOUTS
from conceptlens.families.kinds.reentry import EXPERIMENTAL, ReentryAdapter
from conceptlens.values.recipe import Recipe

_LAYOUTS = {**DUAL_LAYOUTS, **SHARED_LAYOUTS, **SINGLE_LAYOUTS}


@register
class FallbackAdapter(ReentryAdapter):
    """Text and noise as the class's own pipeline makes them."""

    name = "re-entry"
    classes = tuple(_LAYOUTS)

    def __init__(self, transformer: Any) -> None:
        kind = type(transformer).__name__
        super().__init__(transformer, _LAYOUTS[kind])
        if kind in SINGLE_LAYOUTS:
            self.caveat = EXPERIMENTAL

    def embed(self, pipeline: Any, names: tuple[str, ...], recipe: Recipe, options: Mapping[str, Any]) -> Concepts:
        self.check_pooled(recipe)
        return concepts_of(pipeline, self.layout, names, recipe, options)

    def encode(self, pipeline: Any, pixels: Tensor) -> Tensor:
        return clean_latents(pipeline, pixels)

    def add_noise(self, pipeline: Any, clean: Tensor, noise: Tensor, sigma: float) -> Tensor:
        return noised_latents(pipeline, clean, noise, sigma)

    def side_multiple(self, pipeline: Any) -> int:
        return side_of(pipeline, self.layout)

    def prepare(
        self, pipeline: Any, latents: Tensor, prompt: str, sigma: float, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        return noised_call(pipeline, self.layout, latents, prompt, sigma, options)
