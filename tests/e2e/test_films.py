"""Films on the command line: read, asked again, repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

import conceptlens as cl
from command_line import here
from conceptlens.maps.films import write_gif, write_mp4
from conceptlens.rerun import difference, rerun
from conceptlens.values.provenance import RerunError
from specimens.families import cogvideox_5b_transformer
from specimens.random_models import LENGTH
from tiny_models import cogvideox_pipeline

WORDS = ["-c", "boat", "-c", "sea"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny CogVideoX, which paints 5 frames."""
    folder = tmp_path_factory.mktemp("models") / "film"
    cogvideox_pipeline(cogvideox_5b_transformer).save_pretrained(folder)
    settings = {"generate": {"height": 32, "width": 48, "max_sequence_length": LENGTH, "num_inference_steps": 2}}
    (folder / "conceptlens.json").write_text(json.dumps(settings))
    return folder


def frames(count: int) -> list[Image.Image]:
    pictures = [Image.new("RGB", (48, 32), (40, 90, 200)) for _ in range(count)]
    for number, picture in enumerate(pictures):
        ImageDraw.Draw(picture).rectangle((4 * number, 10, 4 * number + 10, 20), fill="red")
    return pictures


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "maps.json").read_text())


@pytest.mark.filterwarnings("ignore:of .* frames are read")
def test_a_film_is_read_asked_again_and_repeated(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_gif(frames(9), tmp_path / "film.gif", 4)
    out, record = tmp_path / "out", tmp_path / "film.record"
    options = [*WORDS, "--model", str(model), "-o", str(out)]
    reading = ["read", str(tmp_path / "film.gif"), *options, "--record", str(record)]
    assert here(monkeypatch, *reading) == 0
    assert "overlay.gif, with every frame, timeline.png and maps.json" in capfd.readouterr().out.replace("\n", "")
    told = result(out)
    assert (told["task"], told["frames"], told["rate"], told["frame_numbers"]) == ("read", 5, 2.0, [0, 2, 4, 6, 8])
    assert told["grid"] == [2, 2, 3]
    assert sorted(told["files"]) == sorted(path.name for path in out.iterdir())
    assert {"overlay.gif", "overlay.mp4", "timeline.png", "timeline.json", "frame-004.png", "maps.npz"} <= set(
        told["files"]
    )
    line = json.loads((out / "timeline.json").read_text())
    assert line["seconds"] == [0, 0.5, 1, 1.5, 2]
    shares = np.array([line["concepts"][name]["share"] for name in ("boat", "sea")])
    assert shares.shape == (2, 5)
    np.testing.assert_allclose(shares.sum(axis=0), 1, atol=1e-4)
    saved = np.load(out / "maps.npz")["scores"]
    assert difference(rerun(out), out) == 0
    again = tmp_path / "again"
    assert here(monkeypatch, "probe", str(record), *options[:-1], str(again)) == 0
    assert np.array_equal(np.load(again / "maps.npz")["scores"], saved)
    assert result(again)["frame_numbers"] == [0, 2, 4, 6, 8]
    (out / "frame-003.png").unlink()
    with pytest.raises(RerunError, match="4 of 5 frames are beside"):
        rerun(out)


def test_more_frames_on_request(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mp4(frames(9), tmp_path / "film.mp4", 8)
    options = [*WORDS, "--model", str(model), "-o", str(tmp_path / "out"), "--set", "num_frames=9"]
    assert here(monkeypatch, "read", str(tmp_path / "film.mp4"), *options) == 0
    told = result(tmp_path / "out")
    assert (told["frames"], told["rate"], told["grid"]) == (9, 8.0, [3, 2, 3])
    assert "frame_numbers" not in told
    assert difference(rerun(tmp_path / "out"), tmp_path / "out") == 0


@pytest.mark.parametrize("name", ["film.gif", "film.mp4"])
def test_a_film_on_a_picture_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (write_gif if name.endswith("gif") else write_mp4)(frames(3), tmp_path / name, 4)
    status = here(monkeypatch, "read", str(tmp_path / name), *WORDS, "-o", str(tmp_path / "out"))
    if name == "film.gif":  # its first frame, as a picture
        assert status == 0
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "image.png"))[0, 0], (40, 90, 200))
    else:
        assert status == 2
        assert "this model reads pictures, not films" in capfd.readouterr().err
        assert not (tmp_path / "out").exists()


def test_a_painted_film_keeps_its_record(model: Path) -> None:
    maps: Any = cl.load(model).generate("a red boat", ["boat", "sea"], seed=1, num_frames=5, record=True)
    assert maps.record.clip is maps.clip or [f.tobytes() for f in maps.record.clip.frames] == [
        f.tobytes() for f in maps.images
    ]
    assert 'src="data:image/gif;base64,' in maps._repr_html_()
