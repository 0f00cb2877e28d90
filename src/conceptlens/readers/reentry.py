"""The probe of models whose blocks are entered again: a second run of the model, with concepts as its text."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from diffusers.hooks import HookRegistry
from jaxtyping import Float
from torch import Tensor, nn

from conceptlens.families.base import Concepts
from conceptlens.families.kinds.reentry import ReentryAdapter
from conceptlens.ops.spaces import accumulator, output_similarity, scores_of
from conceptlens.readers.stream import Probe
from conceptlens.values.early_exit import StopForward
from conceptlens.values.errors import ModelError
from conceptlens.values.models import Module
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import EnteredLayer
from conceptlens.watch.recorder import HOOK, NamedHook, check_compiled, input_of, unhook, with_input

T = TypeVar("T")

BLOCK_TEXT = "encoder_hidden_states"
"""What blocks call their text where it is an argument of its own."""


class ReentryProbe(Probe[EnteredLayer]):
    """Waits for the records of one call, then runs the model again for the concepts and keeps the mean of their scores.

    Args:
        adapter: the family.
        concepts: from `adapter.embed`.
        recipe: with concrete `layers`.
        keep: also keep the scores of each step and layer.
    """

    def __init__(self, adapter: ReentryAdapter, concepts: Concepts, recipe: Recipe, *, keep: bool = False) -> None:
        assert recipe.layers is not None
        adapter.check(recipe)
        super().__init__(accumulator(recipe, keep=keep))
        self._adapter, self._concepts, self._recipe = adapter, concepts, recipe
        self._wanted = frozenset(recipe.layers)
        self._last = recipe.layers[-1]
        self._records: list[EnteredLayer] = []

    @torch.no_grad()
    def __call__(self, block: Module, record: EnteredLayer) -> None:
        if record.layer > self._last:
            return
        self._records.append(record)
        if record.layer < self._last:
            return
        records, self._records = self._records, []
        self.grid = record.call.grid
        outs = self._concept_outputs(records)
        for layer in sorted(self._wanted):
            image = records[layer].part("out")
            raw = output_similarity(outs[layer], image, self._recipe, heads=1)
            self.scores.add(record.call.step, layer, scores_of(raw, self._recipe))

    def _concept_outputs(self, records: list[EnteredLayer]) -> dict[int, Float[Tensor, "batch concept dim"]]:
        if not self._recipe.isolate:
            return concept_outputs(self._adapter, self._concepts, records, self._wanted)
        alone = [concept_outputs(self._adapter, part, records, self._wanted) for part in _one_by_one(self._concepts)]
        return {layer: torch.cat([outs[layer] for outs in alone], dim=1) for layer in self._wanted}


def _one_by_one(concepts: Concepts) -> list[Concepts]:
    """Each concept as a list of its own, so that it sees no other."""
    places = concepts.positions or tuple(range(len(concepts.tokens)))
    return [
        replace(concepts, names=(name,), tokens=concepts.tokens[row : row + 1], positions=(places[row],))
        for row, name in enumerate(concepts.names)
    ]


def concept_outputs(
    adapter: ReentryAdapter, concepts: Concepts, records: list[EnteredLayer], wanted: frozenset[int]
) -> dict[int, Float[Tensor, "batch concept dim"]]:
    """Attention outputs of the concepts, before their projection, in the wanted blocks of one call.

    Args:
        adapter: the family.
        concepts: the text of the second run.
        records: of one call, from block 0 to the last wanted one.
        wanted: numbers of blocks.

    Raises:
        ModelError: when not all of them were passed; a partial map is never returned.
    """
    found: dict[int, Tensor] = {}
    hooked: list[tuple[Module, str]] = []
    blocks = adapter.blocks()

    def hook(module: Module, made: NamedHook) -> None:
        registry = HookRegistry.check_if_exists_or_initialize(cast("nn.Module", module))
        registry.register_hook(made, made.name)
        hooked.append((module, made.name))

    try:
        for record in records:
            block = blocks[record.layer]
            if record.layer in wanted:
                hook(adapter.text_tap(block).module, _ListenHook(found, block, record, adapter, len(concepts.tokens)))
            count = len(concepts.tokens) if record.layer == 0 and adapter.layout.length else None
            hook(block, _EnterHook(adapter, record.hidden, last=record is records[-1], cut=count))
        with suppress(StopForward):
            adapter.transformer(**adapter.entry(concepts, records[0].call))
    except Exception as error:
        check_compiled(error)
        raise
    finally:
        for module, name in reversed(hooked):
            unhook(module, name)
    if set(found) != wanted:
        raise ModelError(
            f"concepts passed {len(found)} of {len(wanted)} blocks when the model was run again; maps would be "
            "partial. Remove what replaces or skips blocks, or report the model."
        )
    return found


class _EnterHook(NamedHook):
    """On a block: its image rows are the recorded ones; `cut` leaves so many rows of the text."""

    name = f"{HOOK}-enter"

    def __init__(self, adapter: ReentryAdapter, hidden: Tensor, *, last: bool, cut: int | None) -> None:
        super().__init__()
        self._adapter, self._hidden, self._last, self._cut = adapter, hidden, last, cut

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        name = self._adapter.layout_of(module).image
        rows = self._adapter.with_image(input_of(module, name, args, kwargs), module, self._hidden)
        args, kwargs = with_input(module, name, rows, args, kwargs)
        if self._cut is not None:
            text = input_of(module, BLOCK_TEXT, args, kwargs)
            args, kwargs = with_input(module, BLOCK_TEXT, text[:, : self._cut], args, kwargs)
        return args, kwargs

    def post_forward(self, module: nn.Module, output: T) -> T:
        if self._last:
            raise StopForward
        return output


class _ListenHook(NamedHook):
    """On the projection after the attention: keeps the concepts' rows of what comes in."""

    name = f"{HOOK}-listen"

    def __init__(
        self, found: dict[int, Tensor], block: nn.Module, record: EnteredLayer, adapter: ReentryAdapter, count: int
    ) -> None:
        super().__init__()
        self._found, self._block, self._record = found, block, record
        self._adapter, self._count = adapter, count

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        rows = self._adapter.concept_rows(args[0], self._block, self._record, self._count)
        self._found[self._record.layer] = rows
        return args, kwargs
