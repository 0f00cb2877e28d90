"""The contract must catch a wrong adapter: each planted bug makes the own-text test or the tap test fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_adapters import COLS, ROWS, as_double, shadow_errors, tap_errors
from torch import Tensor

from conceptlens.families.base import Concepts, DiTAdapter, Projection, Tap
from conceptlens.families.flux import FluxAdapter
from conceptlens.families.flux2 import Flux2Adapter
from conceptlens.families.qwen_image import QwenImageAdapter
from conceptlens.families.sd3 import SD3Adapter
from conceptlens.values.records import CallRecord
from tiny_models import FAMILIES


def without_gate(base: type[DiTAdapter]) -> type[DiTAdapter]:
    class Broken(base):
        def advance(self, block: Any, hidden: Tensor, out: Tensor, modulation: tuple[Tensor, ...]) -> Tensor | None:
            if modulation:
                modulation = (torch.ones_like(modulation[0]), *modulation[1:])
            return super().advance(block, hidden, out, modulation)

    return Broken


def with_swapped_shift(base: type[DiTAdapter]) -> type[DiTAdapter]:
    class Broken(base):
        def advance(self, block: Any, hidden: Tensor, out: Tensor, modulation: tuple[Tensor, ...]) -> Tensor | None:
            if modulation:
                gate, shift, scale, gate_mlp = modulation
                modulation = (gate, scale, shift, gate_mlp)
            return super().advance(block, hidden, out, modulation)

    return Broken


def with_wrong_norm(base: type[DiTAdapter]) -> type[DiTAdapter]:
    class Broken(base):
        def project(self, block: Any, hidden: Tensor, conditioning: Tensor) -> Projection:
            good = super().project(block, hidden, conditioning)
            if getattr(block, "context_pre_only", False):
                return good
            attn, normed = block.attn, block.norm1_context(hidden, emb=conditioning)[0]
            query = attn.norm_added_k(self.heads(block, attn.add_q_proj(normed)))
            return Projection(query, good.key, good.value, good.modulation)

    return Broken


def without_rotation(base: type[DiTAdapter]) -> type[DiTAdapter]:
    class Broken(base):
        def rotate(self, heads: Tensor, call: CallRecord) -> Tensor:
            return heads

    return Broken


def with_shifted_rotation(base: type[DiTAdapter]) -> type[DiTAdapter]:
    class Broken(base):
        def rotate(self, heads: Tensor, call: CallRecord) -> Tensor:
            cos, sin = (call.arguments[name].roll(1, dims=0) for name in ("cos", "sin"))
            return super().rotate(heads, CallRecord(call.step, call.grid, {**call.arguments, "cos": cos, "sin": sin}))

    return Broken


def with_late_out(base: type[DiTAdapter]) -> type[DiTAdapter]:
    class Broken(base):
        def taps(self, block: Any) -> Mapping[str, Tap]:
            return {**super().taps(block), "out": Tap(block.attn.to_out[0])}

    return Broken


def with_early_query(base: type[DiTAdapter]) -> type[DiTAdapter]:
    class Broken(base):
        def taps(self, block: Any) -> Mapping[str, Tap]:
            return {**super().taps(block), "query": Tap(block.attn.to_q)}

    return Broken


def without_text_position(base: type[DiTAdapter]) -> type[DiTAdapter]:
    class Broken(base):
        def begin(self, concepts: Concepts, call: CallRecord) -> tuple[Tensor, Any]:
            return super().begin(replace(concepts, positions=None), call)

    return Broken


BUGS = [without_gate, with_swapped_shift, with_wrong_norm, with_late_out, with_early_query]
CASES = [("flux", FluxAdapter, bug) for bug in [*BUGS, without_rotation, with_shifted_rotation]]
CASES += [("sd3.5-large", SD3Adapter, bug) for bug in BUGS]
ROTATED_TEXT = [("flux2-klein", Flux2Adapter), ("qwen-image", QwenImageAdapter)]
CASES += [
    (name, adapter, bug)
    for name, adapter in ROTATED_TEXT
    for bug in [*BUGS[:2], *BUGS[3:], without_rotation, with_shifted_rotation, without_text_position]
]


@pytest.mark.parametrize(("name", "adapter", "bug"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_planted_bug_is_caught(name: str, adapter: type[DiTAdapter], bug: Any) -> None:
    family = FAMILIES[name]
    broken = bug(adapter)(family.transformer().double())
    call = as_double(family.call(1, ROWS, COLS))
    shadow, taps = shadow_errors(broken, call), tap_errors(broken, call)
    assert max(*shadow, *taps) > 1e-5, "a planted bug stayed below the contract's tolerance"


@pytest.mark.parametrize(("name", "adapter"), [("flux", FluxAdapter), ("sd3.5-large", SD3Adapter), *ROTATED_TEXT])
def test_the_true_adapter_passes_the_same_check(name: str, adapter: type[DiTAdapter]) -> None:
    family = FAMILIES[name]
    true = adapter(family.transformer().double())
    call = as_double(family.call(1, ROWS, COLS))
    assert max(*shadow_errors(true, call), *tap_errors(true, call)) < 1e-10
