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

from conceptlens.families.base import Concepts, ModelAdapter, Tap
from conceptlens.families.kinds.calls import entered, observed
from conceptlens.families.kinds.layouts import (
    Layout,
    joined_rows,
    with_image_rows,
)
from conceptlens.values.errors import RecipeError
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import CallRecord, EnteredLayer

EXPERIMENTAL = (
    "experimental: text and image share all weights; the mechanism is proven (the prompt's own text is "
    "reproduced), the quality of the maps is not validated on real weights"
)


class ReentryAdapter(ModelAdapter[EnteredLayer]):
    """No arithmetic of its own, only where image and text stand (`families.kinds.layouts`)."""

    def __init__(self, transformer: Any, layout: Layout) -> None:
        super().__init__(transformer)
        self.layout, self.name = layout, layout.name
        self.timestep, self.one_area = layout.timestep, layout.one_area
        self.latents, self.guided_batch = layout.latents, layout.guided_batch

    def layout_of(self, block: Any) -> Layout:
        """What a block's arguments mean: here the same for all."""
        return self.layout

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

    def check_pooled(self, recipe: Recipe) -> None:
        """Refuses a pooled vector of the concepts' own: it would change the image as well. Raises `RecipeError`."""
        if self.layout.pooled and recipe.pooled != "prompt":
            raise RecipeError(
                f"pooled={recipe.pooled!r} would change the image rows too: {self.name} is followed through its own "
                "blocks. Leave pooled out."
            )

    def blocks(self) -> nn.ModuleList:
        return getattr(self.transformer, self.layout.blocks)

    def taps(self, block: Any) -> Mapping[str, Tap]:
        layout = self.layout_of(block)
        return {
            "hidden": Tap(block, "input", argument=layout.image),
            "out": Tap(layout.part(block, layout.out), "input"),
        }

    def text_tap(self, block: Any) -> Tap:
        """Where the attention output of the text passes by, before its projection."""
        layout = self.layout_of(block)
        return Tap(layout.part(block, layout.text_out or layout.out), "input")

    def record(
        self, block: Any, layer: int, call: CallRecord, tapped: Mapping[str, Tensor], rows: slice
    ) -> EnteredLayer:
        layout = self.layout_of(block)
        hidden, out = tapped["hidden"].movedim(layout.axis, 1)[rows], tapped.get("out")
        if layout.joint is not None:
            hidden = joined_rows(hidden, layout.joint, call.settings["images"])[0]
        if out is not None:
            if layout.text_out is None:
                out = joined_rows(out, layout.shared, hidden.shape[1])[0]
            painted, count = layout.attended(block, out[rows]), call.grid.tokens
            out = painted[:, -count:] if layout.last else painted[:, :count]
        return EnteredLayer(layer, call, hidden, out)

    def observe(self, arguments: Mapping[str, Any], rows: slice, step: int, previous: CallRecord | None) -> CallRecord:
        name = self.layout.registers
        registers = 0 if name is None else getattr(self.transformer, name).shape[1]
        return observed(self.layout, self.transformer.config, arguments, rows, step, registers)

    def entry(self, concepts: Concepts, call: CallRecord) -> dict[str, Any]:
        """Arguments of the transformer with the concepts as its text and an empty image, which comes block by block."""
        length = None if self.layout.length is None else getattr(self.transformer.config, self.layout.length)
        return entered(self.layout, concepts, call, self.transformer.dtype, length)

    def with_image(self, given: Tensor, block: Any, hidden: Tensor) -> Tensor:
        """A block's image argument with the recorded image rows."""
        layout = self.layout_of(block)
        if layout.joint is None:
            return hidden
        rows_first = given.movedim(layout.axis, 1)
        return with_image_rows(rows_first, layout.joint, hidden).movedim(1, layout.axis)

    def concept_rows(self, out: Tensor, block: Any, record: EnteredLayer, count: int) -> Tensor:
        """The rows of `count` concepts in what passes `text_tap`."""
        layout = self.layout_of(block)
        if layout.text_out is None:
            out = joined_rows(out, layout.shared, record.hidden.shape[1])[1]
        # Padding of one sequence stands in front of its text.
        first = record.call.settings["leading"] if layout.roles is None else out.shape[1] - count
        return layout.attended(block, out[:, first : first + count])
