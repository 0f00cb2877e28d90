"""The command line, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import conceptlens as cl
from command_line import here
from conceptlens.bench.datasets.scenes import make_scene
from conceptlens.bench.report import Report
from conceptlens.cli.options import parse_layers, recipe_options


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "conceptlens.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, check=False)


def test_demo_in_a_fresh_process(tmp_path: Path) -> None:
    done = run("demo", "--out", "shown", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "seed 33" in done.stdout
    labels = np.asarray(Image.open(tmp_path / "shown" / "labels.png"))
    red, green, blue = np.asarray(Image.open(tmp_path / "shown" / "image.png"), int)[:24].transpose(2, 0, 1)
    yellow = (red > 180) & (green > 150) & (blue < 120)
    assert ((labels[:24] == 0) == yellow).mean() > 0.95  # the balloon's area is the balloon
    assert "output space" in done.stdout
    assert (tmp_path / "shown" / "overlay.png").exists()
    assert "Warning" not in done.stderr
    assert "Traceback" not in done.stderr


def test_generate_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    words = ["a blue boat", "-c", "boat", "-c", "sea", "--steps", "2", "--seed", "4", "--set", "true_cfg_scale=1.0"]
    assert here(monkeypatch, "generate", *words, "--layers", "2-3", "-o", out, "--json") == 0
    lines = capfd.readouterr().out.strip().splitlines()
    assert len(lines) == 1
    said = json.loads(lines[0])
    assert said["seed"] == 4
    assert said["concepts"] == ["boat", "sea"]
    assert said["recipe"]["layers"] == [2, 3]
    assert said["pipeline"]["true_cfg_scale"] == 1.0


def test_maps_of_the_prompts_own_words_say_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    painting = ["generate", "a house and a boat", "--steps", "1", "-o", str(tmp_path)]
    hint = 'every place went to one of these words. Name what else is there: -c "house, boat, ..."'
    assert here(monkeypatch, *painting) == 0
    assert hint in capfd.readouterr().err
    assert here(monkeypatch, *painting, "-c", "house, boat") == 0
    assert hint not in capfd.readouterr().err


def test_several_pictures_get_a_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["a blue boat", "-c", "boat", "-c", "sea", "--steps", "1", "--set", "num_images_per_prompt=2"]
    assert here(monkeypatch, "generate", *words, "-o", str(tmp_path)) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"0", "1"}
    assert (tmp_path / "1" / "overlay.png").exists()


def test_read_then_probe_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(make_scene(2).image).save(tmp_path / "photo.png")
    record = str(tmp_path / "photo.record")
    concepts = ["-c", "house", "-c", "sky"]
    read = ["read", str(tmp_path / "photo.png"), *concepts, "--record", record, "-o", str(tmp_path / "a")]
    assert here(monkeypatch, *read) == 0
    assert here(monkeypatch, "probe", record, *concepts, "-o", str(tmp_path / "b")) == 0
    a, b = (np.load(tmp_path / name / "maps.npz")["scores"] for name in "ab")
    assert np.array_equal(a, b)
    assert "noise" in capfd.readouterr().out


def test_read_with_another_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(make_scene(2).image).save(tmp_path / "photo.png")
    read = ["read", str(tmp_path / "photo.png"), "-c", "house", "-c", "sky", "--seed", "3", "-o"]
    assert here(monkeypatch, *read, str(tmp_path / "a"), "--method", "cross-attention", "--json") == 0
    assert here(monkeypatch, *read, str(tmp_path / "b"), "--space", "cross", "--json") == 0
    a, b = (np.load(tmp_path / name / "maps.npz")["scores"] for name in "ab")
    assert np.array_equal(a, b)
    assert json.loads(capfd.readouterr().out.splitlines()[0])["recipe"]["space"] == "cross"


def test_bench_then_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "scenes", "--method", "cross-attention", "--limit", "3", "--seed", "1"]
    out = ["-o", str(tmp_path / "xa")]
    assert here(monkeypatch, *command, *out, "--json") == 0
    said = json.loads(capfd.readouterr().out)
    assert {"accuracy", "miou", "ap"} <= set(said["metrics"])
    assert said["images"] == 3
    assert said["settings"]["method_settings"]["space"] == "cross"
    assert here(monkeypatch, *command, *out) == 0
    assert "Protocol fixed: task=multi, distractors=()" in capfd.readouterr().out
    assert here(monkeypatch, "bench", "report", str(tmp_path), "--format", "csv") == 0
    table = capfd.readouterr().out
    assert "cross-attention,demo" in table
    Report.load(tmp_path / "xa").save(tmp_path / "saved")
    assert here(monkeypatch, "bench", "report", str(tmp_path / "saved"), "--format", "csv") == 0
    assert capfd.readouterr().out == table
    rows = [json.loads(line) for line in (tmp_path / "xa" / "rows.jsonl").read_text().splitlines()]
    assert np.mean([r["scores"]["iou"] for r in rows]) == pytest.approx(said["metrics"]["iou_image"][0], abs=1e-4)


def test_bench_ablate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert here(monkeypatch, "bench", "ablate", "samples", "--limit", "1", "-o", str(tmp_path)) == 0
    assert "| 8 draws |" in capfd.readouterr().out
    made = {path.name for path in (tmp_path / "samples").iterdir() if path.is_file()}
    assert made == {f"samples.{ending}" for ending in ("md", "tex", "csv", "png", "svg")}


def test_methods_are_listed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert here(monkeypatch, "methods") == 0
    assert "concept-attention" in capfd.readouterr().out
    assert here(monkeypatch, "methods", "--json") == 0
    assert json.loads(capfd.readouterr().out)["concept-attention"]["text_conditioned"] is True


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate", "a house", "-c", "house", "-c", "house"], "given twice"),
        (["generate", " ", "-c", "house", "-c", "sky"], "the prompt is empty"),
        (["generate", "a house", "-c", "house", "--layers", "x"], "layers must look like 3,4,5 or 2-5; got 'x'"),
        (["generate", "a house", "-c", "house", "-c", "sky", "--set", "oops"], "--set takes KEY=VALUE"),
        (["generate", "a house", "-c", "house", "--model", "/no/such"], "cannot load model"),
        (["generate", "a house", "-c", "house", "-c", "sky", "--steps", "0"], "num_inference_steps must be at least 1"),
        (["generate", "a house", "-c", "house", "-c", "sky", "--set", "foo=1"], "has an option 'foo'"),
        (["generate", "a house", "-c", "sky", "--device", "warp"], "no device 'warp'"),
        (["read", "none.png", "-c", "house"], "no image at none.png"),
        (["probe", "none.record", "-c", "house"], "no record at none.record"),
        (
            ["bench", "scenes", "--method", "dam", "--limit", "1"],
            "no method 'dam'. Known: clip-as-rnn, concept",
        ),
        (["bench", "scenes", "--protocol", "best", "--limit", "1"], "scenes has no protocol 'best'. Known: fixed"),
        (["bench", "voc-multi", "--data", "/nowhere"], "voc-multi looked for VOCdevkit/VOC2012 in /nowhere"),
        (["bench", "imagenet-seg"], "imagenet-seg needs its data: give --data FOLDER"),
        (["bench", "scenes", "--engine", "spark"], "no engine 'spark'. Known: local, ray"),
        (["bench", "ablate", "width", "--limit", "1", "-o", "/tmp"], "no ablation 'width'. Known: space"),
        (["bench", "report", "/proc/self/fdinfo"], "no run in /proc/self/fdinfo"),
        (["bench", "report", "/tmp", "--format", "xml"], "no format 'xml'. Known: markdown, latex, csv"),
        (["demo", "--out", "/proc/nowhere"], "cannot write to /proc/nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert here(monkeypatch, *arguments) == 2
    shown = capfd.readouterr()
    lines = [line for line in shown.err.splitlines() if line.strip()]
    assert shown.out == ""
    assert len(lines) == 1, shown.err
    assert lines[0].startswith("error: ")
    assert says in lines[0]


def test_usage_errors_end_with_2(tmp_path: Path) -> None:
    done = run("probe", "a.record", cwd=tmp_path)
    assert done.returncode == 2
    assert "Missing option" in done.stderr


def test_version(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert here(monkeypatch, "--version") == 0
    assert capfd.readouterr().out == f"conceptlens {cl.__version__}\n"


def test_options_that_were_set_become_fields_of_a_recipe() -> None:
    made = recipe_options("value", True, "1", True)
    assert made == {"space": "value", "softmax": False, "layers": (1,), "isolate": True}
    assert recipe_options(None, False, None, False) == {}


def test_layers_are_parsed() -> None:
    assert parse_layers("3, 4,5") == (3, 4, 5)
    assert parse_layers("1-3,5") == (1, 2, 3, 5)
    assert parse_layers("-1") == (-1,)
