"""What becomes of the records of a painting: how many steps of it are kept, and where."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from conceptlens.values.errors import BudgetError, OutputError, RecipeError, one_line
from conceptlens.values.recipe import check_choice
from conceptlens.values.records import LayerRecord, R

Generators = torch.Generator | Sequence[torch.Generator] | None
"""What a pipeline draws its noise with: one generator, one for each picture, or its own."""
Store = Literal["model", "cpu", "disk"]
RECORD_BUDGET = 2 * 2**30
"""Bytes that the record of a painted image may take unless told otherwise."""


@dataclass(frozen=True)
class Keeping:
    """How the records of a painting are kept.

    Attributes:
        budget: bytes that they may take.
        fit: when not all wanted steps fit, keep and average fewer of them, evenly spread, instead of refusing.
        store: on the model's device; in the computer's memory; or in temporary files (under `TMPDIR`), mapped into
            memory and gone with the record.
    """

    budget: int = RECORD_BUDGET
    fit: bool = False
    store: Store = "model"

    def __post_init__(self) -> None:
        check_choice("record_store", self.store, Store)

    def kept(self, record: R) -> R:
        """A copy with memory of its own.

        Raises:
            OutputError: when the disk takes no more.
        """
        if self.store == "model":
            return record.clone()
        if self.store == "cpu":
            moved = record.to("cpu")
            return record.clone() if moved is record else moved
        made = {name: _mapped(tensor.detach()) for name, tensor in record.tensors.items()}
        arguments = {name: tensor.cpu() for name, tensor in record.call.arguments.items()}
        return replace(record, call=replace(record.call, arguments=arguments), **made)

    def check(self, first: Sequence[LayerRecord], steps: int) -> None:
        """Judges a whole run of `steps` wanted steps by the records of its first.

        Raises:
            BudgetError: when they would take more than the budget.
            RecipeError: for several pictures at once.
        """
        if len(next(iter(first[0].tensors.values()))) > 1:
            raise RecipeError("record=True keeps one picture at a time. Paint them one by one.")
        each = sum(layer.nbytes for layer in first)
        if each * steps > self.budget:
            raise BudgetError(
                f"a record of {steps} steps takes {each * steps / 1e6:,.0f} MB, the budget is {self.budget / 1e6:,.0f} "
                f"MB: {self.budget // each} steps would fit. Name fewer with steps=, say record='fit', or raise "
                "record_budget.",
                self.budget // each,
            )


def _mapped(tensor: Tensor) -> Tensor:
    """A copy in a temporary file, which has no name any more: it goes with the tensor."""
    try:
        with tempfile.NamedTemporaryFile(prefix="conceptlens-", delete=False) as file:
            path = Path(file.name)
            file.truncate(tensor.nbytes)
        try:
            flat = torch.from_file(str(path), shared=True, size=tensor.numel(), dtype=tensor.dtype)
        finally:
            path.unlink()
        return flat.view(tensor.shape).copy_(tensor)
    except (OSError, RuntimeError) as error:
        raise OutputError(
            f"the record cannot be kept on disk: {one_line(error)}. Set TMPDIR to a folder with room, or "
            "record_store='cpu'."
        ) from error


def spread(wanted: int, among: Sequence[int]) -> tuple[int, ...]:
    """`wanted` of the numbers, evenly spread, the last one among them."""
    count = len(among)
    return tuple(among[count - 1 - (count * number) // wanted] for number in reversed(range(wanted)))


def states(generator: Generators) -> list[Tensor]:
    """Where random numbers stand, of one generator, several or none."""
    return [each.get_state() for each in _each(generator)]


def restore(generator: Generators, kept: list[Tensor]) -> None:
    """Puts generators back to where they stood."""
    for each, state in zip(_each(generator), kept, strict=True):
        each.set_state(state)


def _each(generator: Generators) -> list[torch.Generator]:
    return [] if generator is None else [generator] if isinstance(generator, torch.Generator) else list(generator)
