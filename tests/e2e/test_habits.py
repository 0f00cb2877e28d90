"""What people type without thinking: commas, folders, no words at all, plurals, the same --out again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_line import here
from conceptlens.bench.datasets.scenes import make_scene
from conceptlens.values.listings import datasets
from conceptlens.values.words import singulars

QUICK = ("--steps", "1", "--set", "true_cfg_scale=1.0")


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    folder = tmp_path / "scenes"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "more/b.jpg")):
        Image.fromarray(make_scene(number).image).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def concepts_of(folder: Path) -> list[str]:
    return json.loads((folder / "maps.json").read_text())["concepts"]


@pytest.mark.parametrize("words", [["-c", "house, sky"], ["-c", "house", "-c", "sky"], ["-c", "house,sky,"]])
def test_words_may_have_commas_between(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert here(monkeypatch, "generate", "a house", *words, *QUICK, "-o", str(tmp_path)) == 0
    assert concepts_of(tmp_path) == ["house", "sky"]


def test_without_words_the_things_that_the_prompt_names_are_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert here(monkeypatch, "generate", "a red house and a big tree", *QUICK, "-o", str(tmp_path)) == 0
    assert concepts_of(tmp_path) == ["house", "tree"]


def test_a_prompt_that_names_nothing_needs_words(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert here(monkeypatch, "generate", "red") == 2
    assert "no concepts were given" in capfd.readouterr().err


def test_several_pictures_and_folders(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (scenes / "broken.png").write_bytes(b"no picture")
    single = tmp_path / "single.png"
    Image.fromarray(make_scene(7).image).save(single)
    assert here(monkeypatch, "read", str(scenes), str(single), "-c", "house,sky", "-o", str(tmp_path / "out")) == 0
    said = capfd.readouterr()
    results = {path.parent.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("maps.json")}
    assert results == {"a", "b", "more/b", "single"}
    assert said.out.count("overlay.png") == 4
    assert said.err.count("left out: cannot read") == 1


def test_several_pictures_equal_each_alone(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert here(monkeypatch, "read", str(scenes), "-c", "house,sky", "-o", str(tmp_path / "all")) == 0
    assert here(monkeypatch, "read", str(scenes / "b.png"), "-c", "house,sky", "-o", str(tmp_path / "one")) == 0
    for name in ("heatmap-0-house.png", "segmentation.png"):
        assert (tmp_path / "all" / "b" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


@pytest.mark.parametrize("method", [[], ["--method", "cross-attention"]])
def test_pictures_in_batches_equal_one_after_another(
    method: list[str], scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Three pictures, two of them at once; one that cannot be opened is left out, wherever it stands."""
    (scenes / "z.png").write_bytes(b"no picture")
    for batch in ("1", "2"):
        given = [str(scenes), "-c", "house,sky", "--batch", batch, "-o", str(tmp_path / batch)]
        assert here(monkeypatch, "read", *given, *method) == 0
        assert capfd.readouterr().err.count("left out: cannot read") == 1
    results = sorted(path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("segmentation.png"))
    assert len(results) == 3
    for place in results:
        one, other = (np.asarray(Image.open(tmp_path / batch / place)) for batch in ("1", "2"))
        assert np.mean(one != other) < 1e-3  # but for a pixel where two maps are even


def test_a_batch_of_none_is_refused(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert here(monkeypatch, "read", "a.png", "-c", "house", "--batch", "0") == 2
    assert "'--batch'" in capfd.readouterr().err


def test_names_that_would_share_a_folder_keep_their_endings_or_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        Image.fromarray(make_scene(1).image).save(tmp_path / folder / "a.png")
    Image.fromarray(make_scene(1).image).save(tmp_path / "x" / "a.webp")
    assert here(monkeypatch, "read", str(tmp_path / "x"), "-c", "house,sky", "-o", str(tmp_path / "out")) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "a.webp"}
    pair = [str(tmp_path / folder / "a.png") for folder in ("x", "y")]
    assert here(monkeypatch, "read", *pair, "-c", "house,sky", "-o", str(tmp_path / "both")) == 2
    assert "2 pictures are called a.png" in capfd.readouterr().err
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["empty"], "no pictures in empty. It must hold files that end in .png"),
        (["scenes", "--record", "r.record"], "--record keeps one picture; got 3"),
        (["scenes", "scenes/a.png", "missing.png", "--record", "r"], "--record keeps one picture"),
    ],
)
def test_what_cannot_be_read_together(
    arguments: list[str],
    says: str,
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert here(monkeypatch, "read", *arguments, "-c", "house") == 2
    assert says in capfd.readouterr().err


def test_a_result_that_takes_the_place_of_another_says_so(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = ["read", str(scenes / "a.png"), "-c", "house,sky", "-o", str(tmp_path / "out")]
    assert here(monkeypatch, *asked) == 0
    assert here(monkeypatch, *asked) == 0
    assert "replaces" not in capfd.readouterr().err
    asked[1] = str(scenes / "b.png")
    assert here(monkeypatch, *asked) == 0
    assert "held read with house, sky (model demo, seed 0), which this result replaces" in capfd.readouterr().err


@pytest.mark.filterwarnings("always:.*never trained on")
def test_a_plural_is_told_its_singular(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert singulars("red houses") == ["red hous", "red house"]
    assert singulars("berries") == ["berry", "berri", "berrie"]
    assert singulars("bus") == []
    asked = ["generate", "a house", "-c", "houses,sky", "-o", str(tmp_path / "out"), *QUICK]
    assert here(monkeypatch, *asked) == 0
    assert capfd.readouterr().err.count("never trained on houses; expect noise. It knows house.") == 1


def test_alone_it_says_where_to_begin(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert here(monkeypatch) == 0
    said = capfd.readouterr().out
    assert [line.split()[1] for line in said.splitlines() if line.startswith("  conceptlens")] == [
        "demo",
        "app",
        "read",
    ]


def test_the_shell_completes_commands() -> None:
    asked = {"_CONCEPTLENS_COMPLETE": "complete_bash", "COMP_WORDS": "conceptlens ge", "COMP_CWORD": "1"}
    program = [str(Path(sys.executable).with_name("conceptlens"))]
    done = subprocess.run(program, capture_output=True, text=True, env={**os.environ, **asked}, timeout=60, check=False)
    assert done.stdout.split() == ["generate"]


def test_each_dataset_has_help_of_its_own(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    for name, facts in datasets().items():
        assert here(monkeypatch, "bench", name, "--help") == 0
        said = "".join(capfd.readouterr().out.split())
        assert "".join(f"{facts['summary']}. {facts['needs']}".split()) in said
