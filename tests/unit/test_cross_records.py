"""Sessions on models whose text is only read: a picture is read once, kept, and asked for any words."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import conceptlens as cl
from conceptlens import cli
from conceptlens.features import features
from conceptlens.methods.concept_cross_attention import ConceptCrossAttention
from conceptlens.methods.ovam import Ovam
from conceptlens.presence import presence
from conceptlens.readers.cross import load_cross
from conceptlens.readers.unets import load_unet
from conceptlens.rerun import difference, rerun
from conceptlens.session import Session
from conceptlens.values.record_files import load_record
from conceptlens.values.records import CrossLayer
from tiny_cross import PIPELINES, pixart_pipeline, wan_pipeline
from tiny_cross_painting import without_some_packages
from tiny_unets import SIDE, saved, sd2_pipeline, sdxl_pipeline

UNETS = {"sdxl": sdxl_pipeline, "sd2": sd2_pipeline}
WORDS = ["sun", "house"]


@pytest.fixture(scope="module", params=["sdxl", "sd2", "pixart", "wan"])
def case(request: pytest.FixtureRequest) -> tuple[Session, dict[str, Any]]:
    """A session, and how it reads."""
    if request.param in UNETS:
        return cl.load(UNETS[request.param]()), {"size": SIDE}
    session = cl.load({"pixart": pixart_pipeline, "wan": wan_pipeline}[request.param]())
    session.reader.defaults.generate.update(width=64, height=64)  # type: ignore[attr-defined]
    return session, {"noise": 0.3}


@pytest.fixture
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize("options", [{}, {"samples": 2, "timestep": 300}])
def test_a_probe_of_a_unet_is_ovam(name: str, options: dict[str, Any], photo: Image.Image) -> None:
    session, method = cl.load(UNETS[name]()), Ovam(load_unet(UNETS[name]()), size=SIDE, **options)
    record = session.read(photo, prompt="a tree", seed=3, size=SIDE, **options)
    maps = session.probe(record, WORDS)
    wanted = method.explain(photo, WORDS, prompt="a tree", seed=3)
    assert torch.equal(maps.scores, wanted.scores)
    assert maps.run_info.attribution == wanted.run_info.attribution == "a sun, a house"
    assert maps.run_info.timestep == wanted.run_info.timestep
    assert (maps.run_info.pipeline, maps.run_info.method) == ({"size": SIDE}, "ovam")
    text = "the sun over a house"
    assert torch.equal(
        session.probe(record, ["sun"], attribution=text).scores,
        method.attribute(method.store(photo, prompt="a tree", seed=3), ["sun"], attribution=text).scores,
    )


def test_a_probe_of_a_transformer_is_the_method(photo: Image.Image) -> None:
    session, method = cl.load(pixart_pipeline()), ConceptCrossAttention(load_cross(pixart_pipeline()), samples=2)
    record = session.read(photo, prompt="a tree", seed=3, samples=2)
    wanted = method.explain(photo, WORDS, prompt="a tree", seed=3)
    maps = session.probe(record, WORDS)
    assert torch.equal(maps.scores, wanted.scores)
    assert maps.run_info.tokens == wanted.run_info.tokens
    assert record.recipe.isolate


def test_noise_counts_along_the_schedule(photo: Image.Image) -> None:
    session = cl.load(sd2_pipeline())
    half, told = session.read(photo, size=SIDE, noise=0.5), session.read(photo, size=SIDE, timestep=500)
    assert session.probe(half, ["sun"]).run_info.timestep == 500  # round(0.5 * 999)
    assert torch.equal(half.layers[0].tensors["query"], told.layers[0].tensors["query"])
    assert session.probe(session.read(photo, size=SIDE), ["sun"]).run_info.timestep == 21  # as in the official code
    with pytest.raises(cl.RecipeError, match=r"noise=0.2 and timestep=500 were given. Give one of them"):
        session.read(photo, noise=0.2, timestep=500, size=SIDE)
    with pytest.raises(cl.RecipeError, match="timestep must be below 1000"):
        session.read(photo, timestep=1000, size=SIDE)


def test_a_saved_record_answers_as_before(
    case: tuple[Session, dict[str, Any]], photo: Image.Image, tmp_path: Path
) -> None:
    session, options = case
    record = session.read(photo, prompt="a tree", seed=1, samples=2, layers=(0, -1), **options)
    again = session.load_record(session.save_record(record, tmp_path / "record"))
    assert [layer.layer for layer in record.layers] == [0, session.depth - 1]
    for before, after in zip(record.layers, again.layers, strict=True):
        assert isinstance(after, CrossLayer)
        assert torch.equal(before.tensors["query"], after.query)
        assert after.scale == before.scale  # pyright: ignore[reportAttributeAccessIssue]
        assert len(after.query) == 2
    assert (again.recipe, again.options, again.grid) == (record.recipe, record.options, record.grid)
    direct, replayed = (session.probe(each, WORDS) for each in (record, again))
    assert torch.equal(direct.scores, replayed.scores)
    assert direct.image.size == (40, 24)
    assert not torch.allclose(direct.scores[0], direct.scores[1])


def test_the_image_keys_of_one_softmax_are_kept(tmp_path: Path, photo: Image.Image) -> None:
    with without_some_packages():
        session = cl.load(PIPELINES["prx"]())
        session.reader.defaults.generate.update(width=64, height=64)  # type: ignore[attr-defined]
        record = session.read(photo)
        again = session.load_record(session.save_record(record, tmp_path / "record"))
        assert "image_key" in again.layers[0].tensors
        assert torch.equal(session.probe(record, WORDS).scores, session.probe(again, WORDS).scores)


def test_a_result_can_be_made_again(tmp_path: Path, photo: Image.Image) -> None:
    folder = saved(sd2_pipeline, tmp_path / "sd2")
    session = cl.load(str(folder), device="cpu")
    record = session.read(photo, seed=4, size=SIDE, timestep=300, samples=2)
    session.probe(record, WORDS, isolate=True).save(tmp_path / "out")
    assert difference(rerun(tmp_path / "out", device="cpu"), tmp_path / "out") == 0.0


def test_alone_a_word_does_not_depend_on_the_others(case: tuple[Session, dict[str, Any]], photo: Image.Image) -> None:
    session, options = case
    record = session.read(photo, **options)
    both, one = (session.probe(record, words, isolate=True) for words in (WORDS, WORDS[:1]))
    assert torch.equal(both.scores[0], one.scores[0])
    nulls = ["tree", "sky", "grass", "car", "boat"]
    assert [found.concept for found in presence(session, record, ["sun"], nulls=nulls)] == ["sun"]


def test_what_does_not_fit_is_one_clear_line(
    case: tuple[Session, dict[str, Any]], photo: Image.Image, demo: Session, tmp_path: Path
) -> None:
    session, options = case
    record, foreign = session.read(photo, layers=(0,), **options), demo.read(photo)
    part = record.layers[0]
    assert isinstance(part, CrossLayer)
    cut = replace(record, layers=(replace(part, query=part.query[..., :1]),))
    beyond = replace(record, layers=(replace(part, layer=session.depth),))
    wrong: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (cl.ModelError, "this record was made by demo", lambda: session.probe(foreign, WORDS)),
        (cl.ModelError, "another kind of model left", lambda: session.probe(named(foreign, session), WORDS)),
        (cl.ModelError, "another kind of model left", lambda: demo.probe(named(record, demo), WORDS, layers=(0,))),
        (cl.ModelError, "do not fit", lambda: session.probe(beyond, WORDS)),
        (cl.RecipeError, "layer 1 was not recorded", lambda: session.probe(record, WORDS, layers=(1,))),
        (cl.RecipeError, "noise and samples are fixed", lambda: session.probe(record, WORDS, noise=0.9)),
        (cl.RecipeError, "space is 'cross' for a", lambda: session.probe(record, WORDS, space="output")),
        (cl.RecipeError, "softmax is False for a", lambda: session.read(photo, softmax=True)),
        (cl.RecipeError, "keep is of text streams", lambda: session.probe(record, WORDS, keep=True)),
        (cl.RecipeError, "no preset 'paper'", lambda: session.read(photo, preset="paper")),
        (cl.ConceptError, "given twice", lambda: session.probe(record, ["sun", "sun"])),
        (cl.ModelError, "which cannot give vectors of concepts", lambda: features(session, record, WORDS)),
        (cl.ModelError, "which cannot keep a record of what", lambda: session.generate("a sun", ["sun"], record=True)),
    ]
    if session.family == "U-Net":
        wrong.append((cl.ModelError, "do not fit", lambda: session.probe(cut, WORDS)))
        wrong.append((cl.RecipeError, "attribution must be", lambda: session.probe(record, WORDS, attribution=3)))
    else:
        wrong.append((cl.ModelError, "only read, which cannot paint with maps", lambda: session.generate("a", WORDS)))
    for kind, says, call in wrong:
        with pytest.raises(kind, match=says) as failed:
            call()
        assert "\n" not in str(failed.value)


def named(record: cl.ImageRecord, session: Session) -> cl.ImageRecord:
    """The record under the name of another model."""
    return replace(record, model_id=session.model_id)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda header, tensors: header["scales"].update({"0": 0}), "scale 0, which is no number above 0"),
        (lambda header, tensors: header["scales"].update({"0": float("nan")}), "its scales have the number nan"),
        (lambda header, tensors: header.pop("scales"), "layer 0 lacks its keys or its values"),
        (
            lambda header, tensors: tensors.update({"0.hidden": torch.zeros(1, 4, 8)}),
            "has a hidden, which a Cross",
        ),
        (lambda header, tensors: tensors.update({"0.query": torch.zeros(1, 2, 9999, 4)}), "9999 queries for 256 patch"),
    ],
)
def test_a_damaged_record_is_refused(change: Any, says: str, photo: Image.Image, tmp_path: Path) -> None:
    session, path = cl.load(sd2_pipeline()), tmp_path / "record"
    session.save_record(session.read(photo, size=SIDE), path)
    with safe_open(str(path), framework="pt") as file:
        header = json.loads(file.metadata()["header"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    change(header, tensors)
    save_file(tensors, path, {"format": "conceptlens-record-1", "header": json.dumps(header)})
    with pytest.raises(cl.ImageError, match=says):
        load_record(path)


def test_the_command_line_keeps_and_asks_a_record(
    tmp_path: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    photo.save(tmp_path / "photo.png")
    model = ["--model", str(saved(sd2_pipeline, tmp_path / "sd2")), "--device", "cpu", "--json"]
    record = str(tmp_path / "kept.safetensors")

    def here(*arguments: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["conceptlens", *arguments, *model])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code in (0, None)
        return json.loads(capfd.readouterr().out)

    read = ["read", str(tmp_path / "photo.png"), "-c", "house", "--record", record, "--set", f"size={SIDE}"]
    first = here(*read, "-o", str(tmp_path / "a"))
    assert (first["method"], first["attribution"], first["pipeline"]) == ("ovam", "a house", {"size": SIDE})
    asked = here("probe", record, "-c", "tree", "-o", str(tmp_path / "b"))
    assert (asked["attribution"], asked["timestep"], asked["grid"]) == ("a tree", 21, [16, 16])
