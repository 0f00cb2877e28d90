"""The contract of the fallback, for every transformer class whose own blocks are entered again with concepts."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from test_adapters import as_double, hooks_left
from torch import Tensor

import conceptlens as cl
from conceptlens.families import adapter_for
from conceptlens.families.base import Concepts
from conceptlens.families.kinds.reentry import ReentryAdapter
from conceptlens.readers.reading import record_call
from conceptlens.readers.reentry import ReentryProbe, concept_outputs
from conceptlens.readers.selfcheck import own_text, own_text_errors
from conceptlens.values.early_exit import StopForward
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import EnteredLayer
from conceptlens.watch.recorder import Recorder
from specimens.reentry import REENTRY_SPECIMENS

ROWS, COLS = 4, 6
DEPTH = 3


@pytest.fixture(params=REENTRY_SPECIMENS, ids=lambda name: name.replace("Transformer", "").removesuffix("DModel"))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def built(kind: str, dtype: torch.dtype = torch.float32, batch: int = 1) -> tuple[Any, dict[str, Any]]:
    make, call = REENTRY_SPECIMENS[kind]
    arguments = call(batch, ROWS, COLS)
    transformer = make()
    if dtype == torch.float64:
        transformer, arguments = in_double(transformer, arguments)
    return adapter_for(transformer), arguments


def in_double(transformer: Any, arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    transformer = transformer.double()
    for name, module in transformer.named_modules():
        if name.endswith("time_proj"):  # some classes leave its float32 as it is
            module.register_forward_hook(lambda module, args, output: output.double())
    return transformer, doubled(arguments)


def doubled(call: dict[str, Any]) -> dict[str, Any]:
    lists = {name: [part.double() for part in value] for name, value in call.items() if _is_list(value)}
    return {**as_double(call), **lists}


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and all(torch.is_tensor(part) for part in value)


def concepts_like(adapter: ReentryAdapter, call: dict[str, Any], count: int = 3) -> Concepts:
    width = adapter.layout.text_rows(call)[0].flatten(1).shape[1]
    tokens = torch.randn(count, width, generator=torch.Generator().manual_seed(2))
    return Concepts(tuple(f"c{number}" for number in range(count)), tokens, None)


def run(adapter: ReentryAdapter, call: dict[str, Any], on_layer: Any, **options: Any) -> Tensor:
    settings = {"last": DEPTH - 1, "outputs": frozenset(range(DEPTH)), **options}
    with torch.no_grad(), Recorder(adapter, on_layer, **settings):
        return stacked(adapter.transformer(**call, return_dict=False)[0])


def stacked(output: Any) -> Tensor:
    return output if torch.is_tensor(output) else torch.stack(list(output))


def probed(adapter: ReentryAdapter, call: dict[str, Any], concepts: Concepts, **recipe: Any) -> Tensor:
    probe = ReentryProbe(adapter, concepts, Recipe(**recipe).resolve(DEPTH))
    run(adapter, call, probe)
    return probe.scores.mean()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_own_text_reproduces_the_text_stream(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    """C2: what the model's own text put out at each block, though the second run is given an empty image."""
    errors = own_text_errors(*built(kind, dtype))
    assert len(errors) == DEPTH
    for layer, error in enumerate(errors):
        assert error < tolerance, f"{kind} layer {layer}: text stream off by {error:.1e}; see families/entered"


def test_the_image_is_untouched_and_replay_equals_live(kind: str) -> None:
    """C1, C4 and C8, with a batch of two."""
    adapter, call = built(kind, batch=2)
    with torch.no_grad():
        plain = stacked(adapter.transformer(**call, return_dict=False)[0])
    concepts = concepts_like(adapter, call)
    probe = ReentryProbe(adapter, concepts, Recipe().resolve(DEPTH))
    assert torch.equal(plain, run(adapter, call, probe))
    assert hooks_left(adapter.transformer) == []
    shown = probe.scores.mean()
    assert shown.shape == (2, 3, probe.grid.tokens if probe.grid else 0)
    assert torch.isfinite(shown).all()
    again = ReentryProbe(adapter, concepts, Recipe().resolve(DEPTH))
    with torch.no_grad():
        for record in record_call(adapter, call, Recipe().resolve(DEPTH)):
            again(adapter.transformer, record)  # which block it is plays no part
    assert torch.equal(shown, again.scores.mean())


def test_early_exit_and_the_order_of_concepts(kind: str) -> None:
    """C5, C6 and C9: fewer blocks give the same, permuted concepts permuted maps, on a grid the right way round."""
    adapter, call = built(kind)
    concepts = replace(concepts_like(adapter, call, 4), positions=(0, 0, 0, 0))
    recipe = {"layers": (0, 1), "softmax": False}
    full = probed(adapter, call, concepts, **recipe)
    probe = ReentryProbe(adapter, concepts, Recipe(**recipe))
    with pytest.raises(StopForward):
        run(adapter, call, probe, last=1, outputs=frozenset((0, 1)), stop=True)
    assert hooks_left(adapter.transformer) == []
    assert torch.equal(full, probe.scores.mean())
    assert probe.grid is not None
    assert (probe.grid.rows, probe.grid.cols) == (ROWS, COLS)
    if kind in PLACED:
        return  # there a row's place is part of its meaning
    order = [2, 0, 3, 1]
    permuted = probed(adapter, call, replace(concepts, tokens=concepts.tokens[order]), **recipe)
    torch.testing.assert_close(full[:, order], permuted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(full, permuted, rtol=1e-3)


PLACED = ("Lumina2Transformer2DModel", "ZImageTransformer2DModel", "ErnieImageTransformer2DModel")
"""Classes that rotate text by its row and say so nowhere in their arguments."""


def test_a_concept_alone_does_not_depend_on_the_others() -> None:
    adapter, call = built("BriaTransformer2DModel", torch.float64)
    concepts = concepts_like(adapter, call, 3)
    concepts = replace(concepts, tokens=concepts.tokens.double())
    fewer = replace(concepts, names=concepts.names[:2], tokens=concepts.tokens[:2])
    many, few = (probed(adapter, call, c, softmax=False, isolate=True) for c in (concepts, fewer))
    torch.testing.assert_close(many[:, :2], few, rtol=1e-10, atol=1e-10)
    together = probed(adapter, call, concepts, softmax=False)
    assert not torch.allclose(many, together, rtol=1e-4)


def test_a_wrong_layout_is_found_out() -> None:
    """The own-text check must fail where image rows are put in the place of the text."""
    adapter, call = built("Krea2Transformer2DModel", torch.float64)
    records: list[EnteredLayer] = []
    run(adapter, call, lambda block, record: records.append(record))
    own = own_text(call["encoder_hidden_states"][0])
    with torch.no_grad():
        good = concept_outputs(adapter, own, records, frozenset((2,)))[2]
        adapter.layout = replace(adapter.layout, blocks=replace(adapter.layout.blocks, joint="image first"))
        bad = concept_outputs(adapter, own, records, frozenset((2,)))[2]
    assert ((good - bad).abs().max() / good.abs().max()).item() > 1e-5


def test_what_needs_queries_and_keys_is_refused_in_one_line() -> None:
    adapter, call = built("OvisImageTransformer2DModel")
    with pytest.raises(cl.RecipeError, match="space='cross' needs the queries and keys of each block; Ovis-Image"):
        ReentryProbe(adapter, concepts_like(adapter, call), Recipe(space="cross").resolve(DEPTH))


def test_prompts_of_several_lengths_are_refused_where_they_shift_the_image() -> None:
    adapter, call = built("Lumina2Transformer2DModel", batch=2)
    call["encoder_attention_mask"][1, 4:] = 0
    with pytest.raises(cl.ModelError, match="prompts of different lengths"):
        run(adapter, call, lambda block, record: None)


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(),
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
        DPMSolverMultistepScheduler(use_flow_sigmas=True),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_noise_is_added_on_the_straight_path_whatever_flow_scheduler_a_pipeline_has(scheduler: Any) -> None:
    adapter, _ = built("Lumina2Transformer2DModel")
    clean, noise = torch.full((1, 4, 2, 2), 2.0), torch.full((1, 4, 2, 2), -6.0)
    made = adapter.add_noise(SimpleNamespace(scheduler=scheduler), clean, noise, 0.25)
    assert torch.equal(made, torch.zeros_like(made))
