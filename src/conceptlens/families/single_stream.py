"""The single-stream blocks behind dual-stream ones: text and image in one sequence, under one set of weights.

An adapter of its own, or the entry of a class, follows the dual-stream blocks alone, as the paper does. This one enters
all blocks of such a model again (`reentry`), the dual-stream ones first, and counts their layers through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from conceptlens.families import adapter_for
from conceptlens.families.base import Concepts
from conceptlens.families.kinds.layouts import DUAL_LAYOUTS, FAMILY_LAYOUTS, Layout
from conceptlens.families.kinds.reentry import EXPERIMENTAL, ReentryAdapter
from conceptlens.values.errors import ModelError
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import CallRecord

_SINGLE: dict[str, Any] = {"blocks": "single_transformer_blocks", "attention": "", "out": "proj_out", "text_out": None}
_BOTH = {**_SINGLE, "fused": True}
_LAST = {**_BOTH, "shared": "image first"}

SINGLE_STREAMS: dict[str, Mapping[str, Any]] = {
    "AuraFlowTransformer2DModel": {
        **_SINGLE,
        "joint": "text first",
        "attention": "attn",
        "out": "to_out.0",
    },
    "BriaFiboTransformer2DModel": {**_BOTH, "joint": "text first"},
    "BriaTransformer2DModel": _BOTH,
    "ChromaTransformer2DModel": {**_BOTH, "joint": "text first"},
    "Flux2Transformer2DModel": {**_BOTH, "joint": "text first", "attention": "attn", "out": "to_out"},
    "FluxTransformer2DModel": _BOTH,
    "HiDreamImageTransformer2DModel": {
        "blocks": "single_stream_blocks",
        "joint": "image first",
        "text_out": None,
        "shared": "image first",
    },
    "HunyuanImageTransformer2DModel": _LAST,
    "HunyuanVideoFramepackTransformer3DModel": _LAST,
    "HunyuanVideoTransformer3DModel": _LAST,
    "LongCatImageTransformer2DModel": _BOTH,
    "MotifVideoTransformer3DModel": _LAST,
    "OvisImageTransformer2DModel": _BOTH,
}
"""By transformer class, in what the single-stream blocks differ from the dual-stream ones in front of them."""


class SingleStreamAdapter(ReentryAdapter):
    """All blocks of a model, dual-stream ones first. Its text comes from the class's usual adapter.

    Raises:
        ModelError: for a class without single-stream blocks behind dual-stream ones.
    """

    caveat = EXPERIMENTAL
    single_stream = True

    def __init__(self, transformer: Any) -> None:
        transformer = getattr(transformer, "_orig_mod", transformer)  # what torch.compile wraps
        kind = type(transformer).__name__
        if kind not in SINGLE_STREAMS:
            raise ModelError(
                f"{kind} has no single-stream blocks behind dual-stream ones that could be followed. Leave "
                "single_stream out."
            )
        super().__init__(transformer, {**DUAL_LAYOUTS, **FAMILY_LAYOUTS}[kind])
        self._family = adapter_for(transformer)
        self.guided_batch = self._family.guided_batch
        self.name = f"{self.layout.name}, all blocks"
        self.single = replace(self.layout, **SINGLE_STREAMS[kind])

    def blocks(self) -> nn.ModuleList:
        return nn.ModuleList([*super().blocks(), *self._single_blocks()])

    def _single_blocks(self) -> nn.ModuleList:
        return getattr(self.transformer, self.single.blocks)

    def layout_of(self, block: Any) -> Layout:
        return self.single if any(block is single for single in self._single_blocks()) else self.layout

    def observe(self, arguments: Mapping[str, Any], rows: slice, step: int, previous: CallRecord | None) -> CallRecord:
        if previous is None:
            self._family.observe(arguments, rows, step, None)  # for what it refuses
        return super().observe(arguments, rows, step, previous)

    def trained_text_length(self) -> int | None:
        return self._family.trained_text_length()

    def concept_length(self, pipeline: Any, options: Mapping[str, Any], stated: int | None = None) -> int | None:
        return self._family.concept_length(pipeline, options, stated)

    def native_area(self, pipeline: Any) -> int:
        return self._family.native_area(pipeline)

    def is_perturbed(self, arguments: Mapping[str, Any]) -> bool:
        return self._family.is_perturbed(arguments)

    def embed(self, pipeline: Any, names: tuple[str, ...], recipe: Recipe, options: Mapping[str, Any]) -> Concepts:
        self.check_pooled(recipe)
        return self._family.embed(pipeline, names, recipe, options)

    def encode(self, pipeline: Any, pixels: Tensor) -> Tensor:
        return self._family.encode(pipeline, pixels)

    def add_noise(self, pipeline: Any, clean: Tensor, noise: Tensor, sigma: float) -> Tensor:
        return self._family.add_noise(pipeline, clean, noise, sigma)

    def side_multiple(self, pipeline: Any) -> int:
        return self._family.side_multiple(pipeline)

    def prepare(
        self, pipeline: Any, latents: Tensor, prompt: str, sigma: float, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        return self._family.prepare(pipeline, latents, prompt, sigma, options)
