"""Damaged and strange files: one line, or the very same maps; words and paths that are no text."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import conceptlens as cl
from command_line import here
from conceptlens.bench.datasets.scenes import make_scene
from conceptlens.readers.loading import model_defaults
from conceptlens.rerun import RerunError, rerun
from conceptlens.session import Session
from conceptlens.values.record_files import UNCHECKED_FORMAT, load_record

WORDS = ["house", "sky"]


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(make_scene(3).image)


@pytest.fixture(scope="module")
def saved(demo: Session, picture: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.save_record(demo.read(picture, layers=(1, 2)), tmp_path_factory.mktemp("records") / "scene.record")


def changed(saved: Path, target: Path, **changes: Any) -> Path:
    """The record as it was written before there were checksums, with other fields in its header."""
    with safe_open(saved, "pt") as file:
        header = json.loads(file.metadata()["header"]) | changes
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    save_file(tensors, target, {"format": UNCHECKED_FORMAT, "header": json.dumps(header)})
    return target


def test_a_flipped_bit_is_seen(demo: Session, saved: Path, tmp_path: Path) -> None:
    data, chance, target = saved.read_bytes(), random.Random(1), tmp_path / "flipped"
    expected, seen = demo.probe(demo.load_record(saved), WORDS), 0
    start = 8 + int.from_bytes(data[:8], "little")
    for number in range(60):
        flipped = bytearray(data)
        flipped[chance.randrange(start if number % 2 else len(data))] ^= 1 << chance.randrange(8)
        target.write_bytes(flipped)
        try:
            record = load_record(target)
        except cl.ImageError:
            seen += 1
        else:
            maps = demo.probe(record, WORDS)
            assert torch.equal(maps.scores, expected.scores)
            assert maps.provenance()["recipe"] == expected.provenance()["recipe"]
            assert maps.image.tobytes() == expected.image.tobytes()
    assert seen > 50


def test_a_record_without_a_checksum_is_read_with_a_note(demo: Session, saved: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="old is a record without a checksum, so damage would go unseen"):
        record = demo.load_record(changed(saved, tmp_path / "old"))
    expected = demo.probe(demo.load_record(saved), WORDS)
    assert torch.equal(demo.probe(record, WORDS).scores, expected.scores)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"options": {"max_sequence_length": 10**9}}, "max_sequence_length may be at most 8192; got 1000000000"),
        ({"options": {"max_sequence_length": -1}}, "max_sequence_length must be at least 1"),
        ({"options": {"guidance_scale": 1e300}}, r"options have the number 1e\+300"),
        ({"options": [1]}, "cannot read the record"),
        ({"steps": 10**9}, "steps 1000000000 is no whole number from 0 to 10000"),
        ({"steps": 2.5}, "steps 2.5 is no whole number"),
        ({"step": -1}, "step -1 is no whole number"),
        ({"further": [10**9]}, "step 1000000000 is no whole number"),
        ({"further": 3}, "must be an iterable"),
        ({"grid": [10**9, 1, None]}, "grid 1000000000 is no whole number from 1 to 16384"),
        ({"grid": [64, 64, None]}, "layer 1 has 256 rows for 4096 patches"),
        ({"grid": "xy"}, "cannot read the record"),
        ({"settings": {"0": {"latents": [1, 10**6, 10**6]}}}, "latents have the number 1000000000000"),
        ({"recipe": {"samples": 10**9}}, "samples may be at most 10000"),
        ({"recipe": {"temperature": float("inf")}}, "temperature must be above 0; got inf"),
        ({"recipe": {"space": "keys"}}, "space must be one of output, cross, value"),
        ({"recipe": 7}, "cannot read the record"),
        ({"seed": "x"}, "cannot read the record"),
        ({"prompt": 5}, "its prompt or its model is no text"),
        ({"model": None}, "its prompt or its model is no text"),
    ],
)
def test_numbers_of_a_header_have_bounds(saved: Path, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(cl.ImageError, match=says) as caught:
        load_record(changed(saved, tmp_path / "record", **changes))
    assert "Make it again" in str(caught.value)


def test_parts_that_lack_or_do_not_fit_are_one_line(demo: Session, saved: Path, tmp_path: Path) -> None:
    with safe_open(saved, "pt") as file:
        metadata: dict[str, Any] = file.metadata() | {"format": UNCHECKED_FORMAT}
        whole = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    deep = {**metadata, "header": "[" * 100_000}
    cases = [
        ({**whole, "image": whole["image"][:40]}, metadata, "cannot read the record"),
        ({n: t for n, t in whole.items() if n != "image"}, metadata, "it has no 'image'"),
        ({n: t for n, t in whole.items() if n != "0.key"}, metadata, "layer 0 lacks its keys or its values"),
        ({**whole, "1.out": whole["1.out"][0]}, metadata, "layer 1 has a out of shape"),
        ({**whole, "99999.key": whole["0.key"]}, metadata, "layer 99999 is no whole number from 0 to 1000"),
        (whole, deep, "recursion"),
    ]
    for tensors, told, says in cases:
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "record", told)
        with pytest.raises(cl.ImageError, match=says):
            load_record(tmp_path / "record")
    save_file({n: t for n, t in whole.items() if n != "call.timestep"}, tmp_path / "record", metadata)
    with pytest.warns(UserWarning, match="without a checksum"):
        record = demo.load_record(tmp_path / "record")
    with pytest.raises(cl.ModelError, match=r"this record lacks 'timestep', which .* needs. Read the image again"):
        demo.probe(record, WORDS)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[1]", r"it holds \[1\], not settings by name"),
        ('{"generate": 3}', "its generate is 3, not settings by name"),
        ('{"generate": {"height": -4}}', "height must be at least 1; got -4"),
        ('{"recipe": {"noise": 7}}', "noise is a level from 0"),
        ('{"recipe": {"nose": 1}}', "no recipe option 'nose'"),
        ('{"vocabulary": [1, 2]}', "cannot use"),
        ('{"background": "sky"}', "its background is 'sky', not a list of words"),
        ('{"presence": 5}', "its presence is 5"),
        ('{"unknown": 5}', "unexpected keyword argument 'unknown'"),
        ("[" * 100_000, "recursion"),
        ("\xff", "cannot use"),
    ],
)
def test_damaged_defaults_of_a_model(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "conceptlens.json").write_text(content, encoding="latin-1")
    with pytest.raises(cl.ModelError, match=says) as caught:
        model_defaults(tmp_path, tmp_path)
    assert str(caught.value).endswith("Correct or remove it.")


@pytest.mark.parametrize(
    "change",
    [{"model": None}, {"prompt": 3}, {"concepts": "house"}, {"seed": True}, {"seed": 2**70}, {"recipe": {"nose": 1}},
     {"guidance": [1]}, {"guidance": {"alpha": 1}}, {"batch": "x"}, {"background": "sky"}],
)  # fmt: skip
def test_damaged_results_are_one_line(demo: Session, tmp_path: Path, change: dict[str, Any]) -> None:
    told: dict[str, Any] = {
        "model": "demo",
        "task": "generate",
        "prompt": "a house",
        "concepts": WORDS,
        "background": [],
        "seed": 1,
    }
    (tmp_path / "maps.json").write_text(json.dumps({**told, "recipe": {}, **change}))
    with pytest.raises(RerunError, match="is damaged .*Save the maps again"):
        rerun(tmp_path, session=demo)


@pytest.mark.parametrize("word", ["a\0b", "half \ud83d"])
def test_words_and_paths_that_are_no_text(demo: Session, picture: Image.Image, word: str) -> None:
    with pytest.raises(cl.ConceptError, match="which is no text"):
        demo.generate("a house", [word, "sky"], num_inference_steps=1)
    for prompt, negative in ((word, None), ("a house", word)):
        with pytest.raises(cl.RecipeError, match="which is no text"):
            demo.generate(prompt, WORDS, num_inference_steps=1, negative_prompt=negative)
    with pytest.raises(cl.RecipeError, match="the prompt .* which is no text"):
        demo.read(picture, prompt=word)
    for call in (demo.load_record, demo.read, rerun, cl.load):
        with pytest.raises(cl.ConceptlensError) as caught:
            call(f"/nowhere/{word}")
        str(caught.value).encode()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"guidance_scale": "abc"}, "guidance_scale must be a number; got 'abc'"),
        ({"guidance_scale": True}, "guidance_scale must be a number; got True"),
        ({"height": "tall"}, "height must be a whole number or null; got 'tall'"),
        ({"num_inference_steps": 2.5}, "num_inference_steps must be a whole number; got 2.5"),
        ({"negative_prompt": 3}, "negative_prompt must be text"),
        ({"max_sequence_length": 10**9}, "max_sequence_length may be at most 8192"),
    ],
)
def test_pipeline_keywords_of_the_wrong_kind(demo: Session, options: dict[str, Any], says: str) -> None:
    with pytest.raises(cl.RecipeError, match=says):
        demo.generate("a house", WORDS, **{"num_inference_steps": 1, **options})


@pytest.mark.filterwarnings("ignore:demo was never trained on", "ignore:concept .* is read without")
def test_words_are_no_markup_and_no_commands(
    picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    picture.save(tmp_path / "scene.png")
    words = ["[/x]", "[red]house", "a\x1b[31mb", ":cat:"]
    asked = [part for word in words for part in ("-c", word)]
    status = here(monkeypatch, "read", str(tmp_path / "scene.png"), *asked, "-o", str(tmp_path / "o\x1b[2Jut"))
    shown = capfd.readouterr()
    assert status == 0
    for text in ("[/x]", "[red]house", r"a\x1b[31mb", ":cat:", r"o\x1b[2Jut/overlay.png"):
        assert text in shown.out
    assert "\x1b[31mb" not in shown.out + shown.err
    assert "\x1b[2J" not in shown.out + shown.err
    assert here(monkeypatch, "read", "no\x1b[2J[/x].png", "-c", "house", "-c", "sky") == 2
    assert r"no image at no\x1b[2J[/x].png" in capfd.readouterr().err
