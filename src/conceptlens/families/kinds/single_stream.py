"""The single-stream blocks behind dual-stream ones: text and image in one sequence, under one set of weights.

A family's adapter follows the dual-stream blocks alone, as the paper does. This one enters all blocks of such a model
again (`reentry`), the dual-stream ones first, and counts their layers through; the family says which (`all_blocks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from conceptlens.families import adapter_for
from conceptlens.families.base import Concepts
from conceptlens.families.kinds.layouts import Blocks
from conceptlens.families.kinds.reentry import EXPERIMENTAL, ReentryAdapter
from conceptlens.values.errors import ModelError
from conceptlens.values.models import Model, Module, Pipeline
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import CallRecord


class SingleStreamAdapter(ReentryAdapter):
    """All blocks of a model, dual-stream ones first. Its text comes from the class's usual adapter.

    Raises:
        ModelError: for a class without single-stream blocks behind dual-stream ones.
    """

    caveat = EXPERIMENTAL
    single_stream = True

    def __init__(self, transformer: Model) -> None:
        transformer = getattr(transformer, "_orig_mod", transformer)  # what torch.compile wraps
        self._family = adapter_for(transformer)
        if self._family.all_blocks is None:
            raise ModelError(
                f"{type(transformer).__name__} has no single-stream blocks behind dual-stream ones that could be "
                "followed. Leave single_stream out."
            )
        self.layout, self.single = self._family.all_blocks.layout, self._family.all_blocks.single
        super().__init__(transformer)
        self.guided_batch, self.one_area = self._family.guided_batch, self._family.one_area
        self.name = f"{self._family.name}, all blocks"

    def blocks(self) -> nn.ModuleList:
        return nn.ModuleList([*super().blocks(), *self._single_blocks()])

    def _single_blocks(self) -> nn.ModuleList:
        return getattr(self.transformer, self.single.path)

    def layout_of(self, block: Module) -> Blocks:
        return self.single if any(block is single for single in self._single_blocks()) else self.layout.blocks

    def observe(self, arguments: Mapping[str, Any], rows: slice, step: int, previous: CallRecord | None) -> CallRecord:
        if previous is None:
            self._family.observe(arguments, rows, step, None)  # for what it refuses
        return super().observe(arguments, rows, step, previous)

    def trained_text_length(self) -> int | None:
        return self._family.trained_text_length()

    def concept_length(
        self, pipeline: Pipeline | None, options: Mapping[str, Any], stated: int | None = None
    ) -> int | None:
        return self._family.concept_length(pipeline, options, stated)

    def frame_step(self, pipeline: Pipeline) -> int | None:
        return self._family.frame_step(pipeline)

    def native_frames(self, pipeline: Pipeline) -> int:
        return self._family.native_frames(pipeline)

    def native_area(self, pipeline: Pipeline) -> int:
        return self._family.native_area(pipeline)

    def is_perturbed(self, arguments: Mapping[str, Any]) -> bool:
        return self._family.is_perturbed(arguments)

    def embed(self, pipeline: Pipeline, names: tuple[str, ...], recipe: Recipe, options: Mapping[str, Any]) -> Concepts:
        self.check_pooled(recipe)
        return self._family.embed(pipeline, names, recipe, options)

    def encode(self, pipeline: Pipeline, pixels: Tensor) -> Tensor:
        return self._family.encode(pipeline, pixels)

    def add_noise(self, pipeline: Pipeline, clean: Tensor, noise: Tensor, sigma: float) -> Tensor:
        return self._family.add_noise(pipeline, clean, noise, sigma)

    def side_multiple(self, pipeline: Pipeline) -> int:
        return self._family.side_multiple(pipeline)

    def prepare(
        self, pipeline: Pipeline, latents: Tensor, prompt: str, sigma: float, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        return self._family.prepare(pipeline, latents, prompt, sigma, options)
