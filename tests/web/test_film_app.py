"""A film is asked as a picture is, with frames: the library's own bits, its frames, its limits and its files."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films import FRAMES, clip, gif, mp4, video_session
from page import DESCRIBED, HOME, LIMITS, Tab, png
from PIL import Image
from starlette.testclient import TestClient

import conceptlens as cl
from conceptlens.session import Session
from conceptlens.web import create_app
from conceptlens.web.wire import unpack

WORDS = ["house", "tree", "sky"]
FILM_LIMITS = replace(LIMITS, pictures=20, frames=40, film_pixels=60_000)


@pytest.fixture(scope="module")
def session() -> Session:
    return video_session()


@pytest.fixture(scope="module")
def tab(session: Session) -> Iterator[Tab]:
    with TestClient(create_app(session, limits=FILM_LIMITS), base_url=HOME) as client:
        yield Tab(client)


@pytest.fixture(scope="module")
def film() -> cl.Clip:
    return clip()


@pytest.fixture(scope="module")
def read(tab: Tab, film: cl.Clip) -> dict[str, Any]:
    return tab.finish(tab.upload(gif(film.frames)))


@pytest.fixture(scope="module")
def maps(session: Session, film: cl.Clip) -> Any:
    return session.probe(session.read(film), WORDS)


def frames_of(tab: Tab, picture: str, count: int) -> list[Image.Image]:
    got = [tab.get(f"/api/pictures/{picture}?frame={number}") for number in range(count)]
    return [Image.open(io.BytesIO(each.content)) for each in got]


def test_a_moving_gif_is_a_film(tab: Tab, read: dict[str, Any], film: cl.Clip) -> None:
    assert (read["frames"], read["rate"], read["how"]) == (FRAMES, 10.0, "read at noise 0.5")
    assert [frame.tobytes() for frame in frames_of(tab, read["picture"], FRAMES)] == [f.tobytes() for f in film.frames]
    first = Image.open(io.BytesIO(tab.get(f"/api/pictures/{read['picture']}").content))
    assert first.tobytes() == film.frames[0].tobytes()
    for number, line in (("9", "no frame 9: this film has 9. Use 0 to 8."), ("-1", "frame must be a whole number")):
        answer = tab.get(f"/api/pictures/{read['picture']}?frame={number}")
        assert answer.status_code == 422
        assert answer.json()["error"].startswith(line)


def test_maps_of_a_film_are_those_of_the_library(tab: Tab, read: dict[str, Any], maps: Any) -> None:
    told, arrays = unpack(tab.post("/api/maps", picture=read["picture"], concepts=WORDS, parts=True).content)
    assert np.array_equal(arrays["scores"], maps.scores.numpy().astype(np.float16).astype(np.float32))
    assert np.array_equal(arrays["areas"], maps.segmentation())
    assert told["latents"] == [0, 1, 1, 1, 1, 2, 2, 2, 2]
    for number, latent in enumerate(told["latents"]):
        np.testing.assert_allclose(arrays["doubt"][latent], maps.at(number).doubt(), atol=0.5 / 255 + 1e-6)
    assert told["timeline"] == maps.timeline().to_dict()
    assert told["shares"] == pytest.approx({word: (maps.segmentation() == n).mean() for n, word in enumerate(WORDS)})
    assert arrays["parts"].shape == (1, len(told["layers"]), *maps.scores.shape)
    np.testing.assert_allclose(arrays["parts"].mean((0, 1)), maps.scores.numpy(), atol=1 / 255)
    assert told["line"] == maps.describe()


def test_one_frame_is_asked_like_a_picture(tab: Tab, read: dict[str, Any], maps: Any) -> None:
    still = maps.at(6)
    asked = {"picture": read["picture"], "concepts": WORDS, "frame": 6}
    told, arrays = unpack(tab.post("/api/maps", **asked, edges=True).content)
    assert np.array_equal(arrays["areas"], still.refined(edges=True).segmentation())
    assert told["relations"] == [str(each) for each in still.refined(edges=True).relations()]
    labels = Image.open(io.BytesIO(tab.post("/api/probe", **asked, format="png").content))
    assert np.array_equal(np.asarray(labels), still.segmentation())
    words = tab.post("/api/probe", **asked).json()["words"]
    assert [each["share"] for each in words] == [place.area for place in still.places().values()]
    for fields, line in (
        ({"frame": 9}, "no frame 9: this film has 9. Use 0 to 8."),
        ({"edges": True}, "edges are followed in one frame of a film alone. Give frame, or leave edges out."),
    ):
        answer = tab.post("/api/maps", picture=read["picture"], concepts=WORDS, **fields)
        assert (answer.status_code, answer.json()["error"]) == (422, line)


def test_what_fits_is_ranked_in_every_latent_frame(tab: Tab, session: Session, read: dict[str, Any]) -> None:
    words = ["house", "tree", "sky", "sea", "sun"]
    told, arrays = unpack(tab.post("/api/ranking", picture=read["picture"], concepts=words).content)
    wanted: Any = session.probe(session.read(clip()), words)
    assert (told["words"], told["absent"]) == (words, [])
    assert told["latents"] == [wanted.latent_frame(number) for number in range(FRAMES)]
    assert np.array_equal(arrays["scores"], wanted.scores.numpy().astype(np.float16).astype(np.float32))


def test_a_painted_film_is_that_of_the_live_run(tab: Tab, session: Session) -> None:
    done = tab.finish(tab.post("/api/paint", prompt="a house and a tree", seed=5, steps=3))
    live: Any = session.generate("a house and a tree", WORDS, seed=5, num_inference_steps=3, steps=(1, 2))
    assert (done["state"], done["frames"], done["rate"]) == ("done", FRAMES, 8.0)
    assert [f.tobytes() for f in frames_of(tab, done["picture"], FRAMES)] == [f.tobytes() for f in live.images]
    _, arrays = unpack(tab.post("/api/maps", picture=done["picture"], concepts=WORDS).content)
    assert np.array_equal(arrays["scores"], live.scores.numpy().astype(np.float16).astype(np.float32))


def test_as_many_frames_are_painted_as_are_wanted(tab: Tab, session: Session, demo: Session) -> None:
    done = tab.finish(tab.post("/api/paint", prompt="a house", seed=5, steps=1, frames=17))
    live: Any = session.generate("a house", WORDS, seed=5, num_inference_steps=1, num_frames=17)
    assert [f.tobytes() for f in frames_of(tab, done["picture"], 17)] == [f.tobytes() for f in live.images]
    assert done["frames"] == 17
    with TestClient(create_app(demo, limits=FILM_LIMITS), base_url=HOME) as client:
        answer = Tab(client).post("/api/paint", prompt="a house", frames=5)
        assert answer.status_code == 422
        assert answer.json()["error"] == "frames is of films, and this model paints pictures. Leave it out."


def test_where_no_step_fits_the_painted_film_is_read_back(session: Session) -> None:
    with TestClient(create_app(session, limits=replace(FILM_LIMITS, picture_bytes=1000)), base_url=HOME) as client:
        tab = Tab(client)
        done = tab.finish(tab.post("/api/paint", prompt="a house", seed=5, steps=2))
        assert (done["state"], done["frames"]) == ("done", FRAMES)
        assert "read back" in done["how"]


def test_words_and_files_of_a_film(tab: Tab, read: dict[str, Any], maps: Any, tmp_path: Path) -> None:
    def got(kind: str) -> Any:
        return tab.post("/api/probe", picture=read["picture"], concepts=WORDS, format=kind)

    told, line = got("json").json(), maps.timeline()
    schema = DESCRIBED["components"]["schemas"]["FilmWords"]["properties"]
    assert set(told) == set(schema)
    assert set(told["words"][0]) == set(schema["words"]["items"]["properties"])
    assert tab.about["film"]["reads"]
    assert set(tab.about["film"]) == set(
        DESCRIBED["components"]["schemas"]["About"]["properties"]["film"]["properties"]
    )
    assert [each["word"] for each in told["words"]] == WORDS
    np.testing.assert_allclose([each["shares"] for each in told["words"]], line.share, atol=1e-5)
    np.testing.assert_allclose([each["peaks"] for each in told["words"]], line.peak, atol=1e-5)
    assert [each["share"] for each in told["words"]] == pytest.approx(line.share.mean(1).tolist())
    assert (told["rate"], told["seconds"][-1]) == (10.0, 0.8)
    maps.save_gif(tmp_path / "overlay.gif")
    assert got("overlay").content == (tmp_path / "overlay.gif").read_bytes()
    assert got("overlay").headers["content-disposition"] == 'attachment; filename="overlay.gif"'
    assert np.array_equal(np.load(io.BytesIO(got("npz").content))["scores"], maps.scores.numpy())
    with zipfile.ZipFile(io.BytesIO(got("everything").content)) as archive:
        assert {"overlay.gif", "timeline.json", "maps.npz", "overlay-008.png"} <= set(archive.namelist())
        assert json.loads(archive.read("maps.json"))["frames"] == FRAMES
    assert got("masks").status_code == 422
    assert got("masks").json()["error"] == "format must be one of json, npz, overlay, mp4, everything; got 'masks'."


def test_films_with_the_extra(tab: Tab, read: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("av", reason="MP4 needs conceptlens[video]")
    done = tab.finish(tab.upload(mp4(clip(), tmp_path)))
    assert (done["state"], done["frames"], done["rate"]) == ("done", FRAMES, 10.0)
    answer = tab.post("/api/probe", picture=read["picture"], concepts=WORDS, format="mp4")
    (tmp_path / "overlay.mp4").write_bytes(answer.content)
    assert answer.headers["content-type"] == "video/mp4"
    assert len(cl.Clip.open(tmp_path / "overlay.mp4")) == FRAMES


def test_without_the_extra_one_line_says_so(tab: Tab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    answer = tab.upload(b"\0\0\0\x18ftypmp42" + bytes(99))
    assert answer.status_code == 501
    assert answer.json()["error"] == (
        "reading film.mp4 needs av: pip install 'conceptlens[video]'. Or make a GIF of it."
    )


def test_a_long_film_is_read_in_part(tab: Tab) -> None:
    done = tab.finish(tab.upload(gif(clip(33).frames)))
    assert (done["frames"], done["rate"]) == (FRAMES, 2.5)
    assert done["how"] == "9 frames, evenly spread from 0 to 32, read at noise 0.5"


def test_a_still_picture_is_a_picture_for_a_video_model_too(tab: Tab) -> None:
    done = tab.finish(tab.upload(png(clip().frames[0])))
    assert "frames" not in done
    answer = tab.get(f"/api/pictures/{done['picture']}?frame=0")
    assert answer.json()["error"] == "frame is of films, and this is a picture. Leave it out."
    _, arrays = unpack(tab.post("/api/maps", picture=done["picture"], concepts=WORDS).content)
    assert arrays["areas"].shape == (32, 48)


def test_a_model_of_pictures_takes_the_first_frame(demo: Session) -> None:
    with TestClient(create_app(demo, limits=FILM_LIMITS), base_url=HOME) as client:
        tab = Tab(client)
        assert "film" not in tab.about
        done = tab.finish(tab.upload(gif(clip(41).frames)))
        assert set(done) == {"state", "step", "steps", "picture", "how", "seed", "notes"}
        assert tab.upload(b"\0\0\0\x18ftypmp42" + bytes(99)).json()["error"] == (
            "this file cannot be read as a picture. Use PNG, JPEG, WebP or TIFF."
        )


def big(frames: int, side: int) -> bytes:
    return gif([Image.new("RGB", (side, side), (9 * n, 0, 0)) for n in range(frames)])


@pytest.mark.parametrize(
    ("status", "data", "line"),
    [
        (413, gif(clip(41).frames), "this film has 41 frames; 40 are allowed. Cut it first."),
        (413, big(20, 60), "20 frames of 60x60 pixels are more than 60,000 together. Shrink or cut the film first."),
        (413, b"\0\0\0\x18ftypmp42" + bytes(LIMITS.upload_bytes), "a picture or film may have 200,000 bytes"),
        (422, b"\0\0\0\x18ftypmp42" + bytes(99), "cannot read this file as a film ("),
        (422, big(3, 4), "this file is 4x4 pixels; sides from 8 to 16384 can be read."),
        (422, gif(clip().frames)[:-700], "cannot read this file as a film ("),
        (415, b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/film.ts\n", "this file cannot be read as a picture"),
    ],
)
def test_what_cannot_be_taken_is_told_in_one_line(tab: Tab, status: int, data: bytes, line: str) -> None:
    answer = tab.upload(data)
    assert (answer.status_code, answer.json()["error"][: len(line)]) == (status, line)
    assert "\n" not in answer.json()["error"]
    assert "/tmp" not in answer.json()["error"]


def test_frames_are_kept_small_and_counted(session: Session) -> None:
    limits = replace(FILM_LIMITS, film_side=24)
    app: Any = create_app(session, limits=limits)
    with TestClient(app, base_url=HOME) as client:
        tab = Tab(client)
        done = tab.finish(tab.upload(gif(clip().frames)))
        assert frames_of(tab, done["picture"], 1)[0].size == (24, 16)
        record = session.read(clip())
        assert app.state.store.counts()["bytes"] == record.nbytes + FRAMES * 24 * 16 * 3


def test_a_word_is_asked_by_replay(tab: Tab, session: Session, read: dict[str, Any]) -> None:
    runs: list[int] = []
    hook = session.pipeline.transformer.register_forward_pre_hook(lambda *_: runs.append(1))
    try:
        assert tab.post("/api/maps", picture=read["picture"], concepts=[*WORDS, "boat"]).status_code == 200
        assert runs == []
        tab.finish(tab.upload(gif(clip().frames)))
        assert runs == [1]
    finally:
        hook.remove()
