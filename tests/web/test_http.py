"""The documented HTTP interface: what openapi.json says, and the way through it that docs/http.md shows."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page import DESCRIBED, HOME, LIMITS, Tab, png
from PIL import Image
from starlette.routing import Route
from starlette.testclient import TestClient

from conceptlens.bench.datasets.scenes import make_scene
from conceptlens.maps.exports import decode_rle
from conceptlens.session import Session
from conceptlens.web import create_app
from conceptlens.web.answers import FILM_FORMATS, FORMATS
from conceptlens.web.asking import QUESTION

WORDS = ["house", "tree", "sky"]
PAGE = Path(__file__).parents[2] / "docs" / "http.md"


@pytest.fixture(scope="module")
def tab(demo: Session) -> Iterator[Tab]:
    with TestClient(create_app(demo, limits=LIMITS), base_url=HOME) as client:
        yield Tab(client)


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    return Image.fromarray(make_scene(8).image)


@pytest.fixture(scope="module")
def picture(tab: Tab, scene: Image.Image) -> str:
    answer = tab.upload(png(scene), "/api/read?wait=true")
    assert answer.status_code == 200
    return answer.json()["picture"]


def fields_of(address: str) -> dict[str, Any]:
    body = DESCRIBED["paths"][address]["post"]["requestBody"]["content"]["application/json"]
    return body["schema"]["properties"]


def test_every_route_is_described_and_no_other(demo: Session, tab: Tab) -> None:
    app: Any = create_app(demo)
    served = {
        (route.path, method.lower())
        for route in app.routes
        if isinstance(route, Route) and route.path.startswith("/api/")
        for method in set(route.methods or ()) - {"HEAD"}
    }
    described = {(path, method) for path, methods in DESCRIBED["paths"].items() for method in methods}
    assert described == served
    assert tab.client.get("/openapi.json").json() == DESCRIBED


def test_every_field_is_described_and_no_other(tab: Tab) -> None:
    for address, more in (("/api/probe", {"format"}), ("/api/maps", {"parts"}), ("/api/ranking", set())):
        assert set(fields_of(address)) == QUESTION | more
        known = tab.post(address, nothing=1).json()["error"]
        assert known.endswith(f"Known: {', '.join(sorted(QUESTION | more))}.")
    assert set(fields_of("/api/probe")["format"]["enum"]) == {*FORMATS, *FILM_FORMATS}
    known = tab.post("/api/paint", nothing=1).json()["error"]
    assert known.endswith(f"Known: {', '.join(sorted(fields_of('/api/paint')))}.")
    about = DESCRIBED["components"]["schemas"]["About"]["properties"]
    assert set(about) - {"film"} <= set(tab.about)


def test_words_come_as_run_lengths(demo: Session, tab: Tab, picture: str, scene: Image.Image) -> None:
    answer = tab.post("/api/probe", picture=picture, concepts=WORDS, edges=True)
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    schema = DESCRIBED["components"]["schemas"]["Words"]["properties"]
    assert set(told) == set(schema)
    maps = demo.probe(demo.read(scene), WORDS).refined(edges=True)
    for number, each in enumerate(told["words"]):
        assert set(each) == set(schema["words"]["items"]["properties"])
        mask = maps.segmentation() == number
        assert each["word"] == WORDS[number]
        assert each["share"] == mask.mean()
        assert np.array_equal(decode_rle(each["mask"]), mask)
        rows, cols = np.nonzero(mask)
        assert each["box"] == [cols.min(), rows.min(), np.ptp(cols) + 1, np.ptp(rows) + 1]
        assert each["highest"] == float(maps[WORDS[number]].max())
    assert told["relations"] == [str(relation) for relation in maps.relations()]


def test_labels_come_as_a_palette_png_and_scores_as_npz(
    demo: Session, tab: Tab, picture: str, scene: Image.Image
) -> None:
    maps = demo.probe(demo.read(scene), WORDS)
    labels = Image.open(io.BytesIO(tab.post("/api/probe", picture=picture, concepts=WORDS, format="png").content))
    assert labels.mode == "P"
    assert np.array_equal(np.asarray(labels), maps.segmentation())
    stored = np.load(io.BytesIO(tab.post("/api/probe", picture=picture, concepts=WORDS, format="npz").content))
    assert any(np.array_equal(stored[name], maps.scores.numpy()) for name in stored.files)


def test_who_waits_gets_the_painting(demo: Session, tab: Tab) -> None:
    answer = tab.post("/api/paint", prompt="a red house", seed=5, steps=2, wait=True)
    assert answer.status_code == 200
    assert answer.json()["words"] == ["house"]
    assert answer.json()["seed"] == 5
    image = Image.open(io.BytesIO(tab.get(f"/api/pictures/{answer.json()['picture']}").content))
    assert image.tobytes() == demo.generate("a red house", WORDS, seed=5, num_inference_steps=2).image.tobytes()


def test_who_waits_for_what_fails_is_told(demo: Session, tab: Tab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(demo), "generate", lambda *_, **__: {}["secret detail"])
    answer = tab.post("/api/paint", prompt="a red house", wait=True)
    assert answer.status_code == 500
    assert "secret" not in answer.json()["error"]
    assert tab.upload(b"no picture", "/api/read?wait=true").status_code == 415
    assert tab.upload(b"", "/api/read?wait=maybe").status_code == 422


def test_the_page_about_it_names_what_is_there() -> None:
    text = PAGE.read_text()
    for address in re.findall(r"/api/[\w{}/]+", text):
        assert address in DESCRIBED["paths"], address
    for name in re.findall(r'"(\w+)\\?":', text):
        assert name in {*fields_of("/api/probe"), *fields_of("/api/paint"), "error", "tab"}, name
    assert {*FORMATS, *FILM_FORMATS} <= set(re.findall(r"`(\w+)`", text))
