"""What a result says of itself: one writer, one reader, and what the reader refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conceptlens.values.provenance import Provenance, RerunError, RunInfo, plain_values
from conceptlens.values.recipe import Recipe

PAINTED = RunInfo(
    task="generate",
    family="Flux",
    caveat="an experiment",
    tokens={"house": ["▁house"]},
    text_length=24,
    dtype="float32",
    device="cpu",
    seconds=0.0,
    versions={"torch": "2"},
    pipeline={"num_inference_steps": 2, "negative_prompt": None},
    steps=2,
    guidance={"method": "tsam", "alpha": 0.5},
    losses=[[0, 0.25, None], [1, 0.125]],
)
WHOLE = Provenance(
    model="demo",
    prompt="a red house",
    concepts=("house",),
    background=("sky", "floor"),
    seed=3,
    recipe=Recipe(layers=(2, 3), noise=0.25),
    grid=(16, 24),
    presence={"house": 0.5, "sky": None},
    run=PAINTED,
)


def saved(folder: Path, told: dict[str, Any]) -> Path:
    path = folder / "maps.json"
    path.write_text(json.dumps(told), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "whole",
    [
        WHOLE,
        replace(WHOLE, run=RunInfo(task="read", method="daam", settings={"samples": 2}, timestep=41), recipe=None),
        replace(WHOLE, run=replace(PAINTED, guidance={}, single_stream=True), seed=None, frames=9, grid=(3, 16, 24)),
    ],
    ids=["stream", "method", "video"],
)
def test_what_is_written_is_read(tmp_path: Path, whole: Provenance) -> None:
    assert Provenance.load(saved(tmp_path, whole.to_dict())) == whole


def test_the_keys_of_a_painted_result_and_their_order() -> None:
    assert list(WHOLE.to_dict()) == [
        *("model", "prompt", "concepts", "background", "seed", "recipe", "grid", "edges", "abstain", "presence"),
        *("task", "family", "caveat", "tokens", "text_length", "dtype", "device", "seconds", "versions", "pipeline"),
        *("steps", "guidance", "losses"),
    ]
    assert RunInfo().to_dict() == {}
    assert RunInfo(task="generate", method="cross-attention", guidance={}).to_dict()["guidance"] is None


def test_a_file_of_an_earlier_version_keeps_what_was_done_then(tmp_path: Path) -> None:
    told: dict[str, Any] = {
        "model": "demo",
        "task": "read",
        "prompt": "",
        "concepts": ["house"],
        "background": None,
        "seed": 0,
    }
    found = Provenance.load(saved(tmp_path, {**told, "recipe": {"layers": [1, 2], "noise": 1}, "later": "unknown"}))
    assert found.recipe == Recipe(layers=(1, 2), noise=1.0)
    assert found.background == ()
    assert found.run == RunInfo(task="read")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"task": "dream"}, "task must be one of generate, read; got 'dream'"),
        ({"concepts": ["house", 3]}, r"its concepts is \['house', 3\]"),
        ({"recipe": {"nose": 1}}, "no recipe option 'nose'"),
        ({"seed": True}, "its seed is True"),
        ({"steps": "two"}, "its steps is 'two'"),
        ({"tokens": ["house"]}, r"its tokens is \['house'\]"),
        ({"guidance": {"alpha": 1}}, "'method'"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = saved(tmp_path, {**WHOLE.to_dict(), **change})
    with pytest.raises(RerunError, match=f"is damaged .*{says}.*Save the maps again") as caught:
        Provenance.load(path)
    assert "\n" not in str(caught.value)


def test_keywords_that_json_can_hold() -> None:
    assert plain_values({"a": 1, "b": None, "c": "x", "d": [1], "e": object()}) == {"a": 1, "b": None, "c": "x"}
