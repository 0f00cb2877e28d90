"""Maps of a video: which map a frame gets, and what is written."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import re
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

import conceptlens as cl
from conceptlens.maps import films
from conceptlens.maps.pictures import palette
from conceptlens.maps.video_maps import maps_of
from conceptlens.values.errors import LibraryError, OutputError, ScoreError


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


@pytest.mark.parametrize(("refine", "worked_out"), [((), 3), (("joint-bilateral",), 9)])
def test_frames_of_one_latent_frame_are_settled_once_unless_their_colours_count(
    refine: tuple[str, ...], worked_out: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [Image.new("RGB", (16, 8), (0, 0, 0)) for _ in range(9)]
    for number, image in enumerate(images):
        image.paste((255, 255, 255), (number, 0, 16, 8))
    scores = torch.rand(3, 3, 2, 4, generator=torch.Generator().manual_seed(0)).softmax(0)
    recipe = cl.Recipe(layers=(0,)).override({"refine": refine})
    made = maps_of(images, concepts=("car", "sky", "sea"), scores=scores, recipe=recipe, model_id="tiny")
    assert isinstance(made, cl.VideoMaps)
    each = np.stack([made.at(frame).segmentation() for frame in range(9)])
    seen: list[int] = []
    pixels = cl.ConceptMaps.pixels
    monkeypatch.setattr(cl.ConceptMaps, "pixels", lambda self: seen.append(1) or pixels(self))
    assert np.array_equal(made.segmentation(), each)
    assert len(seen) == worked_out
    assert len({frame.tobytes() for frame in each}) == worked_out
    won = [np.bincount(frame.ravel(), minlength=3) / frame.size for frame in each]
    assert np.allclose(made.timeline().share.T, won)


def test_where_words_tie_the_first_wins() -> None:
    scores = torch.randint(0, 2, (4, 1, 8, 8), generator=torch.Generator().manual_seed(1)).float()
    made = maps_of([Image.new("RGB", (8, 8))], concepts=tuple("abcd"), scores=scores, recipe=None, model_id="tiny")
    assert np.array_equal(made.segmentation()[0], scores[:, 0].argmax(dim=0).numpy())


def test_masks_are_those_of_the_frames() -> None:
    made = video()
    masks = made.masks("car")
    assert (masks.shape, masks.dtype) == ((9, 8, 16), bool)
    assert np.array_equal(masks[5], made.at(5).mask("car", "argmax"))
    assert np.array_equal(made.masks("car", 0.5)[8], made.at(8).mask("car", 0.5))
    assert masks[0, :, 0].all()
    assert not masks[0, :, 8:].any()
    with pytest.raises(cl.ConceptError, match="no map of 'boat'"):
        made.masks("boat")


def test_a_timeline_says_how_much_of_each_frame_a_word_has() -> None:
    """The car fills latent frame 0, half of frame 1, and is not in frame 2."""
    scores = torch.zeros(2, 3, 2, 4)
    scores[0, 0], scores[0, 1, :, :2], scores[0, 2] = 0.9, 0.8, 0.25
    scores[1] = 1 - scores[0]
    clip = cl.Clip(tuple(Image.new("RGB", (16, 8)) for _ in range(5)), 10)
    made = maps_of(clip, concepts=("car", "sky"), scores=scores, recipe=cl.Recipe(layers=(0,)), model_id="tiny")
    assert isinstance(made, cl.VideoMaps)
    line = made.timeline()
    assert line.concepts == ("car", "sky")
    np.testing.assert_allclose(line.share[0], [1, 0.5, 0.5, 0, 0], atol=0.07)  # between the patches scores are blended
    np.testing.assert_allclose(line.share.sum(axis=0), 1)
    np.testing.assert_allclose(line.share[0], made.masks("car").mean(axis=(1, 2)))
    np.testing.assert_allclose(line.peak, [[0.9, 0.8, 0.8, 0.25, 0.25], [0.1, 1, 1, 0.75, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(line.seconds, [0, 0.1, 0.2, 0.3, 0.4])
    told = line.to_dict()
    assert told["concepts"]["sky"]["peak"] == [0.1, 1.0, 1.0, 0.75, 0.75]
    chart = np.asarray(line.chart())
    red, blue = ((chart == colour).all(axis=-1)[:176] for colour in palette(2))
    left, right = slice(50, 60), slice(600, 620)
    assert red[:, left].any(axis=1).argmax() < blue[:, left].any(axis=1).argmax()  # the car is above, then below
    assert red[:, right].any(axis=1).argmax() > blue[:, right].any(axis=1).argmax()


def test_what_maps_of_films_and_of_pictures_share_is_one_thing() -> None:
    made = video()
    assert list(made) == list(made.at(0)) == ["car", "sky"]
    assert "car" in made
    assert repr(made).startswith("<VideoMaps of car, sky · 9 frames in 3 latent ones")
    broken = torch.full((1, 1, 2, 2), float("nan"))
    with pytest.raises(ScoreError):
        cl.VideoMaps(("car",), broken, made.clip, None, "tiny")
    assert "__post_init__" not in vars(cl.VideoMaps)
    assert "__getitem__" not in vars(cl.ConceptMaps)


def test_a_notebook_plays_the_overlay() -> None:
    shown = video(49, 13)._repr_html_()
    data = re.search(r'src="data:image/gif;base64,([^"]+)"', shown)
    assert data is not None
    with Image.open(io.BytesIO(base64.b64decode(data[1]))) as moving:
        assert moving.format == "GIF"
        assert moving.n_frames <= 24  # pyright: ignore[reportAttributeAccessIssue] - of moving pictures
        assert max(moving.size) <= 480
    assert "share of the film" in shown


def test_a_gif_shows_the_overlays_at_the_rate_of_the_film(tmp_path: Path) -> None:
    made = video()
    assert made.save_gif(tmp_path / "new" / "car.gif") == tmp_path / "new" / "car.gif"
    with Image.open(tmp_path / "new" / "car.gif") as moving:
        assert moving.size == made.at(0).overlay().size
        assert moving.info["duration"] == 120  # of 125 milliseconds, in hundredths of a second
    made.save_gif(tmp_path / "car.gif", rate=2)
    with Image.open(tmp_path / "car.gif") as moving:
        assert moving.info["duration"] == 500
    with pytest.raises(OutputError, match=r"save_gif writes GIF files; got 'car\.mp4'\. End the name in \.gif"):
        made.save_gif(tmp_path / "car.mp4")


def test_what_is_saved_says_what_it_is(tmp_path: Path) -> None:
    made = video(3, 3)
    made.save(tmp_path)
    told = json.loads((tmp_path / "maps.json").read_text())
    assert (told["frames"], told["rate"]) == (3, 8.0)
    assert told["grid"] == [3, 2, 4]
    assert sorted(told["files"]) == sorted(path.name for path in tmp_path.iterdir())
    assert np.array_equal(np.load(tmp_path / "maps.npz")["scores"], made.scores.numpy())
    with Image.open(tmp_path / "overlay.gif") as moving:
        assert moving.size == made.at(0).overlay().size
    assert "3 frames in 3 latent ones" in made.describe()
    assert json.loads((tmp_path / "timeline.json").read_text()) == made.timeline().to_dict()
    with Image.open(tmp_path / "timeline.png") as chart:
        assert chart.tobytes() == made.timeline().chart().tobytes()


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
