"""What readers of cross attention share, of U-Nets and of transformers: image queries kept, the keys of words asked."""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import fields, replace
from typing import ClassVar

from conceptlens.readers.base import Reader
from conceptlens.readers.replay import check_recorded
from conceptlens.values.errors import ModelError, RecipeError, shown
from conceptlens.values.provenance import RunInfo, versions_of
from conceptlens.values.recipe import SHARP, Recipe
from conceptlens.values.records import CrossLayer, ImageRecord

_RECIPE = Recipe(space="cross", softmax=False)
"""Keys of words with image queries; the softmax is the model's own, over the rows of a text, not over concepts."""


class CrossAttentionReader(Reader[CrossLayer]):
    """A model that reads its text through cross attention alone.

    Attributes:
        method: the method whose definition its maps follow.
        settable: fields of the recipe that it takes; the others have one value.
    """

    layer = CrossLayer
    method: ClassVar[str]
    settable: ClassVar[frozenset[str]]

    @property
    @abstractmethod
    def shapes(self) -> tuple[tuple[int, int] | None, ...]:
        """Heads and their width in each layer, as far as they are known before the model has run."""

    @property
    def depth(self) -> int:
        return len(self.shapes)

    @property
    def base_recipe(self) -> Recipe:
        """The settings of this kind of model, before those that its folder names."""
        return _RECIPE

    def default_recipe(self, preset: str | None) -> Recipe:
        usual = self.base_recipe.override(dict(self.defaults.recipe))
        if preset == "sharp":
            return replace(usual, refine=SHARP, preset=preset)
        if preset is not None:
            raise RecipeError(f"no preset {shown(preset)} for {self.kind}. Known: sharp.")
        return usual

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        base = self.base_recipe
        for name in (each.name for each in fields(Recipe)):
            if name not in self.settable | {"refine", "preset"} and getattr(recipe, name) != getattr(base, name):
                raise RecipeError(
                    f"{name} is {shown(getattr(base, name))} for {self.kind}, whose cross attention is read; got "
                    f"{shown(getattr(recipe, name))}. Leave {name} out."
                )

    def layers_of(self, record: ImageRecord) -> tuple[CrossLayer, ...]:
        layers, shapes = super().layers_of(record), self.shapes
        for layer in layers:
            known = shapes[layer.layer] if layer.layer < len(shapes) else ()
            if known is not None and known != (layer.query.shape[1], layer.query.shape[3]):
                raise ModelError(
                    f"layer {layer.layer} of this record has queries of shape {tuple(layer.query.shape)}, which do not "
                    f"fit {self.model_id}. Read the picture again."
                )
        return layers

    def asked(self, record: ImageRecord, recipe: Recipe, keep: bool = False) -> list[CrossLayer]:
        """The layers of a record that a recipe asks.

        Raises:
            RecipeError: for layers that were not recorded, or a recipe or `keep` that this kind of model has not.
            ModelError: for a record that does not fit.
        """
        if keep:
            raise RecipeError(f"keep is of text streams; {self.kind} has one map of a concept. Leave keep out.")
        layers = self.layers_of(record)
        self.check(recipe)
        check_recorded(record, recipe)
        return [layer for layer in layers if layer.layer in (recipe.layers or ())]

    def info(self, started: float) -> RunInfo:
        """What every answer says of its computation; `started` is the `time.perf_counter()` of its beginning."""
        model = getattr(self.pipeline, "transformer", None) or self.pipeline.unet
        return RunInfo(
            task="read",
            method=self.method,
            family=self.family,
            dtype=str(model.dtype).removeprefix("torch."),
            device=str(self.device),
            seconds=round(time.perf_counter() - started, 3),
            versions=versions_of("diffusers", "torch", "transformers"),
        )
