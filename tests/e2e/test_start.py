"""What each command imports: seconds are spent on torch and diffusers only where something is computed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import contextlib, io, json, sys
from conceptlens import cli
seen = []
for command in json.loads(sys.argv[1]):
    sys.argv, out, status = ["conceptlens", *command], io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            cli.main()
        except SystemExit as stop:
            status = int(stop.code or 0)
    loaded = {"torch", "numpy", "PIL", "diffusers", "transformers", "skimage", "scipy"} & set(sys.modules)
    seen.append([status, out.getvalue(), sorted(loaded)])
print(json.dumps(seen))
"""


def told(commands: list[list[str]], folder: Path) -> list[tuple[int, str, list[str]]]:
    """Exit status, output, and the heavy packages that were loaded by then, of commands run one after the other."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(commands)], cwd=folder, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_help_tables_and_refusals_import_no_torch(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "maps.json").write_text('{"model": "demo"}')
    paint, read = ["generate", "a house", "-c", "house"], ["read", "photo.png", "-c", "house", "-c", "sky"]
    cases: list[tuple[list[str], int, str]] = [
        (["--version"], 0, "conceptlens 0."),
        (["--help"], 0, "Score methods on images with known masks."),
        (["generate", "--help"], 0, "Paint PROMPT and map the concepts while at it"),
        (["bench", "scenes", "--help"], 0, "conceptlens[ray]"),
        (["methods"], 0, "concept-attention"),
        (["doctor", "--all"], 0, "Z-Image"),
        (["doctor"], 2, "name one model, or give --all."),
        ([*paint, "--layers", "5-2"], 2, "layers go from the lower to the higher; got '5-2'. Write 2-5."),
        ([*paint, "--layers", "0-999999999"], 2, "no model has 1000000000 layers"),
        ([*paint, "--layers", "x"], 2, "layers must look like 3,4,5 or 2-5; got 'x'"),
        ([*paint, "-c", "house"], 2, "concept 'house' was given twice"),
        ([*paint, "--seed", str(2**70)], 2, "a seed has 64 bits"),
        ([*paint, "--preset", "papre"], 2, "no preset 'papre'. Known: paper, sharp."),
        ([*paint, "--space", "keys"], 2, "space must be one of output, cross, value"),
        ([*paint, "--abstain", "1"], 2, "abstain is a share of the pixels"),
        ([*paint, "--steps", "0"], 2, "num_inference_steps must be at least 1; got 0"),
        ([*paint, "--steps", "1000000000"], 2, "num_inference_steps may be at most 10000"),
        ([*paint, "--set", "alone"], 2, "--set takes KEY=VALUE"),
        ([*paint, "--set", "temperature=hot"], 2, "temperature must be a number; got 'hot'"),
        ([*paint, "--out", "file"], 2, "cannot write to file: file is a file"),
        (["generate", " ", "-c", "house"], 2, "the prompt is empty"),
        ([*read, "--method", "nope"], 2, "no method 'nope'. Known: clip-as-rnn, concept-attention"),
        ([*read, "--noise", "7"], 2, "noise is a level from 0 (clean) to 1 (pure noise); got 7.0"),
        ([*read, "--samples", "1000000000"], 2, "samples may be at most 10000"),
        ([*read, "--record", "folder"], 2, "folder is a folder. Name a file, such as folder/photo.record."),
        (["rerun", "photo.png"], 2, "photo.png is no maps.json of conceptlens, or damaged"),
        (["rerun", "folder"], 2, "cannot read folder/maps.json: No such file or directory"),
        (["rerun", "maps.json"], 2, "maps.json does not tell 'task'"),
        (["findings", "nope"], 2, "no finding 'nope'. Known: maps,"),
        (["bench", "scenes", "--engine", "x"], 2, "no engine 'x'. Known: local, ray."),
        (["bench", "scenes", "--method", "nope"], 2, "no method 'nope'"),
        (["bench", "report", "folder", "--format", "x"], 2, "no format 'x'"),
    ]
    for (command, status, says), (got, output, loaded) in zip(
        cases, told([command for command, _, _ in cases], tmp_path), strict=True
    ):
        assert loaded == [], command
        assert got == status, output
        assert says in output.replace("\n", " "), command
        assert "Traceback" not in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "maps.json", "photo.png"]


def test_refusals_that_need_torch_import_no_diffusers(tmp_path: Path) -> None:
    (tmp_path / "damaged").write_bytes(b"\xff" * 100)
    cases = [
        (["generate", "a house", "-c", "house", "--guide", "nope"], "no guidance 'nope'. Known: attend-and-excite"),
        (["generate", "a house", "--guide", "tsam", "--set", "guide.alpha=x"], "alpha"),
        (["read", "damaged", "-c", "house", "-c", "sky"], "cannot read damaged as an image"),
        (["read", "none.png", "-c", "house", "-c", "sky", "--method", "dino"], "no image at none.png. Check the path."),
        (["probe", "damaged", "-c", "house", "-c", "sky"], "cannot read the record damaged"),
        (["probe", "none", "-c", "house", "-c", "sky"], "no record at none. Check the path."),
    ]
    for (command, says), (status, output, loaded) in zip(cases, told([c for c, _ in cases], tmp_path), strict=True):
        assert not {"diffusers", "transformers"} & set(loaded), command
        assert status == 2
        assert says in output


@pytest.mark.parametrize("module", ["conceptlens", "conceptlens.cli.commands", "conceptlens.rerun"])
def test_these_modules_import_no_torch(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'numpy', 'rich', 'PIL'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
