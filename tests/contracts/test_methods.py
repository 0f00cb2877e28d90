"""What every method promises, on the tiny folder that its builder writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from conceptlens.methods import method_named
from conceptlens.methods.base import SaliencyMethod
from conceptlens.values.errors import ConceptError, ModelError, RecipeError
from tiny_cross import METHODS_TINY_CROSS
from tiny_methods import METHODS_TINY as METHODS_TINY_VIT
from tiny_unets import METHODS_TINY_UNET

METHODS_TINY = {**METHODS_TINY_VIT, **METHODS_TINY_UNET, **METHODS_TINY_CROSS}

CONCEPTS = ["house", "tree", "sun"]


def picture(width: int = 40, height: int = 32) -> Image.Image:
    """Smooth noise: no symmetry for a transposed map to hide behind."""
    random = np.random.default_rng(3).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(random).resize((width, height), Image.Resampling.BICUBIC)


def modules_in(thing: Any, depth: int = 3) -> list[nn.Module]:
    """All torch modules within reach of an object's attributes."""
    if isinstance(thing, nn.Module):
        return list(thing.modules())
    if depth == 0 or isinstance(thing, (str, bytes, type)) or thing is None:
        return []
    parts = [*vars(thing).values()] if hasattr(thing, "__dict__") else []
    if isinstance(thing, dict):
        parts = list(thing.values())
    elif isinstance(thing, (list, tuple)):
        parts = list(thing)
    return [module for part in parts for module in modules_in(part, depth - 1)]


def hooks_on(saliency: SaliencyMethod) -> int:
    found = {id(m): len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules_in(saliency)}
    assert found, "no torch module is within reach of the method"
    return sum(found.values())


@pytest.fixture(scope="module", params=METHODS_TINY, ids=str)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def saliency(name: str, tmp_path_factory: pytest.TempPathFactory) -> SaliencyMethod:
    model, options = METHODS_TINY[name](tmp_path_factory.mktemp(name))
    return method_named(name).load(model, device="cpu", **options)


def test_maps_are_raw_scores_on_the_native_grid(name: str, saliency: SaliencyMethod) -> None:
    maps = saliency.explain(picture(), CONCEPTS)
    assert maps.concepts == tuple(CONCEPTS)
    assert maps.scores.dtype == torch.float32
    assert maps.scores.device.type == "cpu"
    assert maps.scores.isfinite().all()
    assert maps.pixels().shape == (3, 32, 40)
    assert maps.recipe is None
    assert maps.details["task"] == "read"
    assert maps.details["method"] == name == saliency.name
    assert maps.details["settings"] == dict(saliency.settings)
    assert maps.details["seconds"] >= 0
    assert "torch" in maps.details["versions"]
    assert maps.model_id == saliency.model_id
    assert json.loads(json.dumps(maps.provenance()))["method"] == name


def test_maps_do_not_change_when_asked_again(saliency: SaliencyMethod) -> None:
    first, second = (saliency.explain(picture(), CONCEPTS, seed=3).scores for _ in range(2))
    assert torch.equal(first, second)


def test_a_map_is_not_constant_and_follows_the_concept_if_the_method_says_so(saliency: SaliencyMethod) -> None:
    scores = saliency.explain(picture(), CONCEPTS).scores
    assert scores.flatten(1).std(dim=1).max() > 0
    same = all(torch.equal(scores[0], other) for other in scores[1:])
    assert same is not saliency.info.text_conditioned


def test_no_hooks_are_left(saliency: SaliencyMethod, monkeypatch: pytest.MonkeyPatch) -> None:
    before = hooks_on(saliency)
    saliency.explain(picture(), CONCEPTS)
    assert hooks_on(saliency) == before
    linear = nn.Linear.forward
    calls = iter(range(10_000))

    def fails_on_the_way(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        if next(calls) == 9:
            raise RuntimeError("stopped on the way")
        return linear(self, x)

    monkeypatch.setattr(nn.Linear, "forward", fails_on_the_way)
    with pytest.raises(RuntimeError, match="stopped on the way"):
        saliency.explain(picture(), CONCEPTS)
    assert hooks_on(saliency) == before


def test_bad_input_is_one_clear_line(name: str, saliency: SaliencyMethod, tmp_path: Path) -> None:
    with pytest.raises(ConceptError, match="given twice"):
        saliency.explain(picture(), ["house", "house"])
    with pytest.raises(ModelError, match="nowhere") as failed:
        method_named(name).load(str(tmp_path / "nowhere"), device="cpu")
    assert "\n" not in str(failed.value)
    model, options = METHODS_TINY[name](tmp_path)
    with pytest.raises(RecipeError, match="colour") as failed:
        method_named(name).load(model, device="cpu", **options, colour="red")
    assert "\n" not in str(failed.value)
