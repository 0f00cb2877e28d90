"""Single-stream blocks behind dual-stream ones: the contract, and that the dual-stream ones stay what they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from test_adapters import hooks_left
from test_reentry import COLS, ROWS, concepts_like, in_double, stacked
from torch import Tensor
from typer.testing import CliRunner

import conceptlens as cl
from conceptlens.cli.commands import app
from conceptlens.families import adapter_for, registered
from conceptlens.families.base import Concepts, DiTAdapter
from conceptlens.families.kinds.single_stream import SingleStreamAdapter
from conceptlens.readers.reading import record_call
from conceptlens.readers.reentry import ReentryProbe
from conceptlens.readers.selfcheck import own_text_errors
from conceptlens.readers.stream import ConceptProbe
from conceptlens.rerun import difference, rerun
from conceptlens.session import Session
from conceptlens.values.early_exit import StopForward
from conceptlens.values.recipe import Recipe
from conceptlens.watch.recorder import Recorder
from specimens import SPECIMENS

SINGLE_STREAMS = [name for name, family in registered().items() if family.all_blocks is not None]


@pytest.fixture(params=SINGLE_STREAMS, ids=lambda name: name.replace("Transformer", "").removesuffix("DModel"))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def built(kind: str, dtype: torch.dtype = torch.float32, batch: int = 1) -> tuple[SingleStreamAdapter, dict[str, Any]]:
    make, call = SPECIMENS[kind]
    transformer, arguments = make(), call(batch, ROWS, COLS)
    if dtype == torch.float64:
        transformer, arguments = in_double(transformer, arguments)
    return SingleStreamAdapter(transformer), arguments


def probed(adapter: Any, call: dict[str, Any], concepts: Concepts, recipe: Recipe, **options: Any) -> Any:
    assert recipe.layers is not None
    kind: Any = ConceptProbe if isinstance(adapter, DiTAdapter) else ReentryProbe
    probe = kind(adapter, concepts, recipe)
    settings = {"last": recipe.layers[-1], "outputs": frozenset(recipe.layers), **options}
    with torch.no_grad(), Recorder(adapter, probe, **settings):
        probe.image = stacked(adapter.transformer(**call, return_dict=False)[0])  # type: ignore[union-attr]
    return probe


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_own_text_reproduces_the_text_stream_of_all_blocks(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    adapter, call = built(kind, dtype)
    errors, usual = own_text_errors(adapter, call), len(adapter_for(adapter.transformer).blocks())
    assert len(errors) == usual + 1
    for layer, error in enumerate(errors):
        assert error < tolerance, f"{kind} layer {layer}: text stream off by {error:.1e}; see its family's all_blocks"


def test_the_image_is_untouched_and_replay_equals_live(kind: str) -> None:
    adapter, call = built(kind, batch=2)
    with torch.no_grad():
        plain = stacked(adapter.transformer(**call, return_dict=False)[0])
    concepts, last = concepts_like(adapter, call), len(adapter.blocks()) - 1
    recipe = Recipe(layers=(last - 1, last))
    probe = probed(adapter, call, concepts, recipe)
    assert torch.equal(plain, probe.image)
    assert hooks_left(adapter.transformer) == []
    shown = probe.scores.mean()
    assert shown.shape == (2, 3, probe.grid.tokens)
    assert torch.isfinite(shown).all()
    again = ReentryProbe(adapter, concepts, recipe)
    with torch.no_grad():
        for record in record_call(adapter, call, recipe):
            again(adapter.transformer, record)  # which block it is plays no part
    assert torch.equal(shown, again.scores.mean())


def test_the_single_stream_block_says_something_of_its_own(kind: str) -> None:
    adapter, call = built(kind)
    concepts, last = concepts_like(adapter, call), len(adapter.blocks()) - 1
    dual, single = (
        probed(adapter, call, concepts, Recipe(layers=(layer,), softmax=False)).scores.mean()
        for layer in (last - 1, last)
    )
    assert not torch.allclose(dual, single, rtol=0.1)
    other = replace(concepts, tokens=concepts.tokens.flip(0))
    swapped = probed(adapter, call, other, Recipe(layers=(last,), softmax=False)).scores.mean()
    assert not torch.allclose(single, swapped, rtol=1e-3)


WITH_ADAPTER = [name for name in SINGLE_STREAMS if issubclass(type(adapter_for(SPECIMENS[name][0]())), DiTAdapter)]


@pytest.mark.parametrize("kind", WITH_ADAPTER)
def test_the_dual_stream_blocks_are_those_of_the_adapter(kind: str) -> None:
    """Two ways to the same numbers: the family's arithmetic, and the model's blocks entered again."""
    adapter, call = built(kind, torch.float64)
    usual = adapter_for(adapter.transformer)
    count = len(usual.blocks())
    recipe = Recipe(layers=tuple(range(count)), softmax=False)
    concepts = replace(concepts_like(adapter, call, 3), positions=(0, 0, 0))
    concepts = replace(concepts, tokens=concepts.tokens.double())
    made, wanted = (probed(a, call, concepts, recipe).scores.mean() for a in (adapter, usual))
    torch.testing.assert_close(made, wanted, rtol=1e-6, atol=1e-6 * wanted.abs().max().item())


def test_early_exit_ends_behind_the_last_wanted_block() -> None:
    adapter, call = built("FluxTransformer2DModel")
    ran: list[Tensor] = []
    handle = adapter.transformer.norm_out.register_forward_pre_hook(lambda module, args: ran.append(args[0]))
    with pytest.raises(StopForward):
        probed(adapter, call, concepts_like(adapter, call), Recipe(layers=(4,)), stop=True)
    handle.remove()
    assert ran == []
    assert hooks_left(adapter.transformer) == []


def test_a_model_without_such_blocks_is_one_clear_line() -> None:
    with pytest.raises(cl.ModelError, match="SD3Transformer2DModel has no single-stream blocks behind"):
        SingleStreamAdapter(SPECIMENS["SD3Transformer2DModel"][0]())
    with pytest.raises(cl.ModelError, match="a U-Net has no single-stream blocks"):
        cl.load("demo-unet", single_stream=True)


@pytest.fixture(scope="module")
def both() -> tuple[Session, Session]:
    return cl.load(device="cpu"), cl.load(device="cpu", single_stream=True)


def test_the_embedded_model_is_followed_to_its_last_block(both: tuple[Session, Session], tmp_path: Path) -> None:
    usual, whole = both
    assert (usual.depth, whole.depth) == (6, 8)
    options = {"seed": 3, "num_inference_steps": 2, "background": False}
    # The pooled vector of FLUX.1 turns image rows as well, so that of the concepts alone cannot be had this way.
    one, other = (s.generate("a red house", ["house", "sky"], pooled="prompt", **options) for s in both)
    assert one.image.tobytes() == other.image.tobytes()
    torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-4)
    with pytest.raises(cl.RecipeError, match="pooled='zeros' would change the image rows too"):
        whole.generate("a red house", ["house", "sky"], pooled="zeros", **options)
    last = whole.generate("a red house", ["house", "sky"], layers=(6, 7), **options)
    assert not torch.allclose(one.scores, last.scores, atol=0.01)
    assert "experimental" in last.details["caveat"]
    last.save(tmp_path)
    assert difference(rerun(tmp_path, device="cpu"), tmp_path) == 0


def test_a_record_is_asked_by_the_kind_of_session_that_made_it(both: tuple[Session, Session]) -> None:
    records = [session.read(Image.new("RGB", (64, 64), "red"), layers=(5,)) for session in both]
    for session, record in zip(both, records, strict=True):
        assert session.probe(record, ["house", "sky"]).scores.shape == (2, 16, 16)
    with pytest.raises(cl.ModelError, match="made with single_stream, this model opened without it"):
        both[0].probe(records[1], ["house", "sky"])
    with pytest.raises(cl.ModelError, match="made without single_stream, this model opened with it"):
        both[1].probe(records[0], ["house", "sky"])


def test_on_the_command_line(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    asked = ["read", str(tmp_path / "red.png"), "-c", "house", "-c", "sky", "--layers", "6-7", "--out", str(tmp_path)]
    told = CliRunner().invoke(app, asked)
    assert told.exit_code != 0
    told = CliRunner().invoke(app, [*asked, "--single-stream"])
    assert told.exit_code == 0, told.output
    assert (tmp_path / "overlay.png").exists()
