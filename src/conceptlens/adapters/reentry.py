"""Any transformer with a text stream that reads the image: its own blocks, entered again with concepts as the text.

The image rows that entered each block are recorded. Later the model runs once more with the concepts in place of the
prompt, and in front of every block its image rows are replaced by the recorded ones. So each block computes, with its
own unchanged code, what its text stream would have been if the text had been the concepts: norms, modulation, rotation
and masks are the model's. It costs a second pass over the image, which an adapter of its own saves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from conceptlens.adapters import register
from conceptlens.adapters._calls import entered, observed
from conceptlens.adapters._first_call import clean_latents, concepts_of, noised_call, noised_latents, side_of
from conceptlens.adapters._layouts import DUAL_LAYOUTS, SHARED_LAYOUTS, SINGLE_LAYOUTS, joined_rows, with_image_rows
from conceptlens.adapters.base import Concepts, ModelAdapter, Tap
from conceptlens.errors import RecipeError
from conceptlens.recipe import Recipe
from conceptlens.records import CallRecord, LayerRecord

_LAYOUTS = {**DUAL_LAYOUTS, **SHARED_LAYOUTS, **SINGLE_LAYOUTS}


@register
class ReentryAdapter(ModelAdapter):
    """The fallback: no arithmetic of its own, only where image and text stand (`_layouts`)."""

    name = "re-entry"
    classes = tuple(_LAYOUTS)

    def __init__(self, transformer: Any) -> None:
        super().__init__(transformer)
        kind = type(transformer).__name__
        self.layout = _LAYOUTS[kind]
        self.name = self.layout.name
        self.timestep, self.one_area = self.layout.timestep, self.layout.one_area
        if kind in SINGLE_LAYOUTS:
            self.caveat = (
                "experimental: text and image share all weights; the mechanism is proven (the prompt's own text is "
                "reproduced), the quality of the maps is not validated on real weights"
            )

    def recipe(self, depth: int) -> Recipe:
        return Recipe(layers=tuple(range(max(0, depth - 10), depth)), pooled="prompt")

    def check(self, recipe: Recipe) -> None:
        usual = Recipe()
        for field in ("space", "cross_attention", "self_attention", "bos", "padding", "image_vectors"):
            if getattr(recipe, field) != getattr(usual, field):
                raise RecipeError(
                    f"{field}={getattr(recipe, field)!r} needs the queries and keys of each block; {self.name} is "
                    f"followed through its own blocks. Leave {field} out."
                )
        if recipe.pooling == "joined":
            raise RecipeError(f"pooling='joined' is not for {self.name}. Use mean, first or last.")

    def blocks(self) -> nn.ModuleList:
        return getattr(self.transformer, self.layout.blocks)

    def taps(self, block: Any) -> Mapping[str, Tap]:
        attention = self._attention(block)
        return {
            "hidden": Tap(block, "input", argument=self.layout.image),
            "out": Tap(attention.get_submodule(self.layout.out), "input"),
        }

    def text_tap(self, block: Any) -> Tap:
        """Where the attention output of the text passes by, before its projection."""
        return Tap(self._attention(block).get_submodule(self.layout.text_out or self.layout.out), "input")

    def _attention(self, block: Any) -> Any:
        return block.get_submodule(self.layout.attention)

    def record(
        self, block: Any, layer: int, call: CallRecord, tapped: Mapping[str, Tensor], rows: slice
    ) -> LayerRecord:
        hidden, out = tapped["hidden"].movedim(self.layout.axis, 1)[rows], tapped.get("out")
        if self.layout.joint is not None:
            hidden = joined_rows(hidden, self.layout.joint, call.settings["images"])[0]
        if out is not None:
            if self.layout.text_out is None:
                out = joined_rows(out, self.layout.shared, hidden.shape[1])[0]
            painted, count = out[rows], call.grid.tokens
            out = painted[:, -count:] if self.layout.last else painted[:, :count]
        return LayerRecord(layer, call, None, None, out, None, hidden)

    def observe(self, arguments: Mapping[str, Any], rows: slice, step: int, previous: CallRecord | None) -> CallRecord:
        return observed(self.layout, self.transformer.config, arguments, rows, step)

    def entry(self, concepts: Concepts, call: CallRecord) -> dict[str, Any]:
        """Arguments of the transformer with the concepts as its text and an empty image, which comes block by block."""
        length = None if self.layout.length is None else getattr(self.transformer.config, self.layout.length)
        return entered(self.layout, concepts, call, self.transformer.dtype, length)

    def with_image(self, given: Tensor, hidden: Tensor) -> Tensor:
        """A block's image argument with the recorded image rows."""
        if self.layout.joint is None:
            return hidden
        rows_first = given.movedim(self.layout.axis, 1)
        return with_image_rows(rows_first, self.layout.joint, hidden).movedim(1, self.layout.axis)

    def concept_rows(self, out: Tensor, record: LayerRecord, count: int) -> Tensor:
        """The rows of `count` concepts in what passes `text_tap`."""
        if self.layout.text_out is None:
            assert record.hidden is not None
            out = joined_rows(out, self.layout.shared, record.hidden.shape[1])[1]
        # Padding of one sequence stands in front of its text.
        first = record.call.settings["leading"] if self.layout.roles is None else out.shape[1] - count
        return out[:, first : first + count]

    def conditional_rows(self, pipeline: Any, arguments: Mapping[str, Any]) -> slice | None:
        if pipeline is None or self.layout.guidance == "calls" or not pipeline.do_classifier_free_guidance:
            return slice(None)
        half = len(arguments[self.layout.latents]) // 2
        return slice(half, None) if self.layout.guidance == "second half" else slice(half)

    def embed(self, pipeline: Any, names: tuple[str, ...], recipe: Recipe, options: Mapping[str, Any]) -> Concepts:
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
