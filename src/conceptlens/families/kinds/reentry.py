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
from conceptlens.families.kinds.layouts import Blocks, Layout, joined_rows, with_image_rows
from conceptlens.values.errors import RecipeError
from conceptlens.values.models import Model, Module
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import CallRecord, EnteredLayer

EXPERIMENTAL = (
    "experimental: text and image share all weights; the mechanism is proven (the prompt's own text is "
    "reproduced), the quality of the maps is not validated on real weights"
)


class ReentryAdapter(ModelAdapter[EnteredLayer]):
    """No arithmetic, only where image and text stand (`families.kinds.layouts`)."""

    layout: Layout

    def __init__(self, transformer: Model) -> None:
        super().__init__(transformer)
        self.timestep, self.latents = self.layout.timestep, self.layout.latents

    def layout_of(self, block: Module) -> Blocks:
        """Where image and text stand in a block: here the same for all."""
        return self.layout.blocks

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
        return getattr(self.transformer, self.layout.blocks.path)

    def taps(self, block: Module) -> Mapping[str, Tap]:
        layout = self.layout_of(block)
        return {
            "hidden": Tap(block, "input", argument=layout.image),
            "out": Tap(layout.part(block, layout.out), "input"),
        }

    def text_tap(self, block: Module) -> Tap:
        """Where the attention output of the text passes by, before its projection."""
        layout = self.layout_of(block)
        return Tap(layout.part(block, layout.text_out or layout.out), "input")

    def record(
        self, block: Module, layer: int, call: CallRecord, tapped: Mapping[str, Tensor], rows: slice
    ) -> EnteredLayer:
        layout = self.layout_of(block)
        hidden, out = layout.batch_first(tapped["hidden"])[rows], tapped.get("out")
        if layout.joint is not None:
            hidden = joined_rows(hidden, layout.joint, call.settings["images"])[0]
        if out is not None:
            if layout.text_out is None:
                out = joined_rows(out, layout.shared, hidden.shape[1])[0]
            painted, count = layout.attended(block, out[rows]), call.grid.tokens
            out = painted[:, -count:] if self.layout.last else painted[:, :count]
        return EnteredLayer(layer, call, hidden, out)

    def observe(self, arguments: Mapping[str, Any], rows: slice, step: int, previous: CallRecord | None) -> CallRecord:
        return self.layout.observe(self.transformer, arguments, rows, step)

    def entry(self, concepts: Concepts, call: CallRecord) -> dict[str, Any]:
        """Arguments of the transformer with the concepts as its text and an empty image, which comes block by block."""
        device, places = call.arguments[self.timestep].device, concepts.positions or range(len(concepts.tokens))
        tokens = concepts.tokens.to(device, self.transformer.dtype)
        return self.layout.enter(tokens, places, call, self.transformer)

    def with_image(self, given: Tensor, block: nn.Module, hidden: Tensor) -> Tensor:
        """A block's image argument with the recorded image rows."""
        layout = self.layout_of(block)
        if layout.joint is None:
            return hidden
        return layout.batch_first(with_image_rows(layout.batch_first(given), layout.joint, hidden))

    def concept_rows(self, out: Tensor, block: nn.Module, record: EnteredLayer, count: int) -> Tensor:
        """The rows of `count` concepts in what passes `text_tap`."""
        layout = self.layout_of(block)
        if layout.text_out is None:
            out = joined_rows(out, layout.shared, record.hidden.shape[1])[1]
        first = self.layout.first_concept(record.call, out.shape[1], count)
        return layout.attended(block, out[:, first : first + count])
