"""Every method through the command line, on a tiny model of its class."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_line import here
from conceptlens.bench.datasets.scenes import make_scene
from tiny_methods import METHODS_TINY
from tiny_unets import METHODS_TINY_UNET

BUILDERS = {**METHODS_TINY, **METHODS_TINY_UNET}


@pytest.mark.parametrize("name", BUILDERS)
def test_a_picture_is_explained_saved_and_scored(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    model, options = BUILDERS[name](tmp_path)
    given = ["--method", name, "--model", str(model), "--device", "cpu"]
    given += [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
    Image.fromarray(make_scene(2).image[:48]).save(tmp_path / "photo.png")
    words = ["-c", "house", "-c", "sky"]
    assert here(monkeypatch, "read", str(tmp_path / "photo.png"), *words, *given, "-o", str(tmp_path / "out")) == 0
    shown = capfd.readouterr()
    assert name in shown.out, shown.err
    told = json.loads((tmp_path / "out" / "maps.json").read_text())
    assert told["concepts"] == ["house", "sky"]
    with np.load(tmp_path / "out" / "maps.npz") as arrays:
        assert np.isfinite(arrays["scores"]).all()
    with Image.open(tmp_path / "out" / "overlay.png") as sheet:
        assert sheet.width > 64
    assert here(monkeypatch, "bench", "scenes", "--limit", "1", *given, "--json") == 0
    said = json.loads(capfd.readouterr().out)
    assert said["images"] == 1
    assert said["settings"]["method"] == name
    assert 0 <= said["metrics"]["accuracy"][0] <= 1
