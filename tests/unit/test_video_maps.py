"""Maps of a video: which map a frame gets, and what is written."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

import conceptlens as cl
from conceptlens.maps import films
from conceptlens.maps.video_maps import maps_of
from conceptlens.values.errors import LibraryError, OutputError


def video(frames: int = 9, latent: int = 3) -> cl.VideoMaps:
    """Two concepts; the first is at the left in latent frame 0, and one column further in each that follows."""
    scores = torch.zeros(2, latent, 2, max(4, latent))
    for number in range(latent):
        scores[0, number, :, number] = 1
    scores[1] = 1 - scores[0]
    images = [Image.new("RGB", (16, 8), (number, 0, 0)) for number in range(frames)]
    made = maps_of(images, concepts=("car", "sky"), scores=scores, recipe=cl.Recipe(layers=(0,)), model_id="tiny")
    assert isinstance(made, cl.VideoMaps)
    return made


def test_a_frame_gets_the_map_of_the_latent_frame_that_holds_it() -> None:
    made = video()
    assert len(made) == 9
    assert [made.latent_frame(frame) for frame in range(9)] == [0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert made.latent_frame(-1) == 2
    assert [video(49, 13).latent_frame(f) for f in (0, 1, 4, 5, 48)] == [0, 1, 1, 2, 12]
    assert video(1, 1).latent_frame(0) == 0
    with pytest.raises(cl.RecipeError, match="no frame 9: this video has 9"):
        made.at(9)


def test_a_frame_opens_as_the_maps_of_a_picture() -> None:
    made = video()
    frame = made.at(5)
    assert isinstance(frame, cl.ConceptMaps)
    assert frame.image.getpixel((0, 0)) == (5, 0, 0)
    assert torch.equal(frame.scores, made.scores[:, 2])
    assert made["car"].shape == (3, 2, 4)
    assert frame["car"].argmax().item() == 2
    with pytest.raises(cl.ConceptError, match="no map of 'boat'"):
        made["boat"]
    winners = made.segmentation()
    assert winners.shape == (9, 8, 16)
    assert np.array_equal(winners[5], frame.segmentation())


def test_what_is_saved_says_what_it_is(tmp_path: Path) -> None:
    made = video(3, 3)
    made.save(tmp_path)
    told = json.loads((tmp_path / "maps.json").read_text())
    assert told["frames"] == 3
    assert told["grid"] == [3, 2, 4]
    assert sorted(told["files"]) == sorted(path.name for path in tmp_path.iterdir())
    assert np.array_equal(np.load(tmp_path / "maps.npz")["scores"], made.scores.numpy())
    with Image.open(tmp_path / "overlay.gif") as moving:
        assert moving.size == made.at(0).overlay().size
    assert "3 frames in 3 latent ones" in made.describe()


def frames_of(file: Path) -> list[np.ndarray]:
    with av.open(str(file)) as opened:
        assert opened.streams.video[0].codec_context.name == "h264"
        return [frame.to_ndarray(format="rgb24") for frame in opened.decode(video=0)]


def test_an_mp4_shows_the_overlays_in_order(tmp_path: Path) -> None:
    made = video()
    assert made.save_mp4(tmp_path / "new" / "car.mp4", rate=4) == tmp_path / "new" / "car.mp4"
    shown, sheets = frames_of(tmp_path / "new" / "car.mp4"), [made.at(frame).overlay() for frame in range(9)]
    width, height = sheets[0].size
    assert [frame.shape for frame in shown] == [(height + height % 2, width + width % 2, 3)] * 9
    for frame, sheet in zip(shown, sheets, strict=True):
        away = np.abs(frame[:height, :width].astype(int) - np.asarray(sheet.convert("RGB"))).mean()
        assert away < 8
    with av.open(str(tmp_path / "new" / "car.mp4")) as opened:
        assert opened.streams.video[0].average_rate == 4
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["car.mp4"]


def test_sides_of_an_mp4_are_even(tmp_path: Path) -> None:
    films.write_mp4([Image.new("RGB", (31, 17), (200, 20, 20))] * 3, tmp_path / "odd.mp4")
    assert [frame.shape for frame in frames_of(tmp_path / "odd.mp4")] == [(18, 32, 3)] * 3


def test_what_is_saved_holds_an_mp4(tmp_path: Path) -> None:
    video(3, 3).save(tmp_path)
    assert len(frames_of(tmp_path / "overlay.mp4")) == 3


def test_without_the_extra_the_gif_is_written_and_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(films, "find_spec", lambda name: None if name == "av" else importlib.util.find_spec(name))
    films._note_missing.cache_clear()
    with pytest.warns(UserWarning, match=r"conceptlens\[video\]"):
        video(3, 3).save(tmp_path / "one")
    video(3, 3).save(tmp_path / "two")  # warnings are errors here: it is said once
    assert (tmp_path / "two" / "overlay.gif").exists()
    assert not (tmp_path / "two" / "overlay.mp4").exists()
    with pytest.raises(LibraryError, match=r"pip install 'conceptlens\[video\]'"):
        video(3, 3).save_mp4(tmp_path / "car.mp4")
    assert not (tmp_path / "car.mp4").exists()


def test_an_mp4_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"End the name in \.mp4"):
        video().save_mp4(tmp_path / "car.avi")
    with pytest.raises(OutputError, match="got 0"):
        video().save_mp4(tmp_path / "car.mp4", rate=0)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write to"):
        video().save_mp4(tmp_path / "file" / "car.mp4")
