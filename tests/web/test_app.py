"""The page's interface: what is asked is answered with the library's own bits, bounded, and with the right status."""

from __future__ import annotations

import io
import json
import re
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
import torch
from page import HOME, LIMITS, Tab, png
from PIL import Image
from starlette.testclient import TestClient

from conceptlens.bench.datasets.scenes import make_scene
from conceptlens.families.kinds.sketch import sketch_of
from conceptlens.guidance import guidance_named
from conceptlens.maps.image_maps import chance_text
from conceptlens.presence import add_presence, presence
from conceptlens.session import Session
from conceptlens.values.example import EXAMPLES
from conceptlens.web import Limits, create_app
from conceptlens.web.app import SCRIPTS, STATIC
from conceptlens.web.store import Picture, Store
from conceptlens.web.uploads import opened
from conceptlens.web.wire import pack, unpack
from hooks import hooks_left


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    return Image.fromarray(make_scene(8).image)


@pytest.fixture(scope="module")
def client(demo: Session) -> Iterator[TestClient]:
    with TestClient(create_app(demo, limits=LIMITS), base_url=HOME) as made:
        yield made


@pytest.fixture
def tab(client: TestClient) -> Tab:
    return Tab(client)


@pytest.fixture
def picture(tab: Tab, scene: Image.Image) -> str:
    return tab.finish(tab.upload(png(scene)))["picture"]


WORDS = ["house", "tree", "sky"]


def store_of(client: TestClient) -> Store:
    """What the application remembers for its tabs."""
    app: Any = client.app
    return app.state.store


def half(scores: torch.Tensor) -> np.ndarray:
    """Scores as they travel."""
    return scores.numpy().astype(np.float16).astype(np.float32)


def test_maps_of_an_upload_are_those_of_the_library(demo: Session, tab: Tab, picture: str, scene: Image.Image) -> None:
    told, arrays = unpack(tab.post("/api/maps", picture=picture, concepts=WORDS).content)
    maps = demo.probe(demo.read(scene), WORDS)
    assert told["concepts"] == WORDS
    assert np.array_equal(arrays["scores"], half(maps.scores))
    assert told["shares"]["sky"] == maps.places()["sky"].area
    assert told["line"] == maps.describe()
    kept = Image.open(io.BytesIO(tab.get(f"/api/pictures/{picture}").content))
    assert kept.tobytes() == scene.tobytes()


def test_maps_of_a_painting_are_those_of_the_live_run(demo: Session, tab: Tab) -> None:
    done = tab.finish(tab.post("/api/paint", prompt="a red house", seed=5, steps=4))
    assert done["state"] == "done"
    assert done["step"] == done["steps"] == 4
    answer = tab.post("/api/maps", picture=done["picture"], concepts=WORDS, parts=True)
    told, arrays = unpack(answer.content)
    live = demo.generate("a red house", WORDS, seed=5, num_inference_steps=4, steps=(1, 3), keep=True)
    assert np.array_equal(arrays["scores"], half(live.scores))
    assert told["steps"] == [1, 3]
    assert live.recipe is not None
    assert live.parts is not None
    assert told["layers"] == list(live.recipe.layers or ())
    np.testing.assert_allclose(arrays["parts"], live.parts.numpy(), atol=0.5 / 255 + 1e-6)
    kept = Image.open(io.BytesIO(tab.get(f"/api/pictures/{done['picture']}").content))
    assert kept.tobytes() == live.image.tobytes()


def test_whether_a_word_is_there_is_told_as_the_library_tells_it(demo: Session, tab: Tab) -> None:
    done = tab.finish(tab.post("/api/paint", prompt="a red house", seed=5, steps=4))
    told, _ = unpack(tab.post("/api/maps", picture=done["picture"], concepts=["house", "boat", "red"]).content)
    image = Image.open(io.BytesIO(tab.get(f"/api/pictures/{done['picture']}").content))
    asked = demo.probe(demo.read(image), ["house", "boat", "red"])
    known = add_presence(demo, asked).presence
    assert known is not None
    assert told["presence"] == {word: chance_text(known[word]) for word in ("house", "boat", "red")}
    assert told["presence"]["boat"].startswith("no")
    assert told["presence"]["red"] == "cannot say"


def test_the_store_counts_what_tells_presence(demo: Session, scene: Image.Image) -> None:
    record = demo.read(scene)
    assert Picture("tab", record, "read", record).nbytes == record.nbytes
    assert Picture("tab", record, "painted", demo.read(scene)).nbytes == 2 * record.nbytes


def test_where_no_step_fits_the_painting_is_read_back(demo: Session) -> None:
    with TestClient(create_app(demo, limits=Limits(picture_bytes=1000)), base_url=HOME) as client:
        tab = Tab(client)
        done = tab.finish(tab.post("/api/paint", prompt="a red house", seed=5, steps=2))
        assert "read back like any picture" in done["how"]
        told, _ = unpack(tab.post("/api/maps", picture=done["picture"], concepts=WORDS).content)
        assert "noise 0.25" in told["line"]


def test_where_few_steps_fit_so_many_are_recorded(demo: Session) -> None:
    with TestClient(create_app(demo, limits=Limits(picture_bytes=5_000_000)), base_url=HOME) as client:
        tab = Tab(client)
        done = tab.finish(tab.post("/api/paint", prompt="a red house", seed=5, steps=4))
        answer = tab.get(f"/api/pictures/{done['picture']}").headers
        assert "2 of 4 steps recorded" in done["how"]
        assert int(answer["x-conceptlens-bytes"]) <= 5_000_000


def test_maps_of_one_step_and_layer_bring_their_own_areas_doubt_and_ranking(demo: Session, tab: Tab) -> None:
    done = tab.finish(tab.post("/api/paint", prompt="a red house", seed=5, steps=4))
    live = demo.generate("a red house", WORDS, seed=5, num_inference_steps=4, steps=(1, 3), record=True)
    assert live.record is not None
    alone = {"picture": done["picture"], "step": 3, "layer": 2}
    told, arrays = unpack(tab.post("/api/maps", concepts=WORDS, edges=True, **alone).content)
    maps = demo.probe(live.record, WORDS, steps=(3,), layers=(2,)).refined(edges=True)
    assert np.array_equal(arrays["scores"], half(maps.scores))
    assert np.array_equal(arrays["areas"], maps.segmentation())
    np.testing.assert_allclose(arrays["doubt"], maps.doubt(), atol=0.5 / 255)
    assert told["shares"] == {word: maps.places()[word].area for word in WORDS}
    mean, _ = unpack(tab.post("/api/maps", picture=done["picture"], concepts=WORDS, edges=True).content)
    assert told["shares"] != mean["shares"]
    _, ranked = unpack(tab.post("/api/ranking", concepts=["house", "sky"], **alone).content)
    assert np.array_equal(
        ranked["scores"], half(demo.probe(live.record, ["house", "sky"], steps=(3,), layers=(2,)).scores)
    )


def test_what_a_prompt_loses_is_told(tab: Tab) -> None:
    prompt = "a red house and a tree under the sun near a boat on the sea " * 6
    done = tab.finish(tab.post("/api/paint", prompt=prompt, seed=5, steps=1))
    assert any("tokens and a text encoder reads" in note for note in done["notes"])
    assert tab.finish(tab.post("/api/paint", prompt="a red house", seed=5, steps=1))["notes"] == []


def test_no_note_speaks_python(tab: Tab, picture: str) -> None:
    for concepts in (["house"], ["dragon"], ["house", "ñandú"]):
        told, _ = unpack(tab.post("/api/maps", picture=picture, concepts=concepts).content)
        assert told["notes"]
        for note in told["notes"]:
            assert not re.search(r"\w=\w|session|\w\(|_", note), note


def test_a_page_that_is_loaded_again_keeps_its_tab(client: TestClient, tab: Tab, picture: str) -> None:
    again = client.post("/api/tabs", headers=tab.headers)
    assert (again.status_code, again.json()["tab"]) == (200, tab.about["tab"])
    assert tab.get(f"/api/pictures/{picture}").status_code == 200
    other = client.post("/api/tabs", headers={"x-conceptlens-tab": "unknown"})
    assert other.status_code == 201
    assert other.json()["tab"] not in ("unknown", tab.about["tab"])


def test_the_example_is_painted_once_for_all_and_takes_nobodys_place(demo: Session, scene: Image.Image) -> None:
    prompt, seed, words = EXAMPLES["demo"]
    with TestClient(create_app(demo, limits=Limits(pictures=1)), base_url=HOME) as client:
        first, second = Tab(client), Tab(client)
        mine = first.finish(first.upload(png(scene)))["picture"]
        answer = first.post("/api/example")
        assert (answer.json()["prompt"], tuple(answer.json()["words"])) == (prompt, words)
        done = first.finish(answer)
        example = store_of(client).example
        assert second.finish(second.post("/api/example"))["picture"] == done["picture"]
        assert store_of(client).example is example
        assert first.get(f"/api/pictures/{mine}").status_code == 200
        image = Image.open(io.BytesIO(second.get(f"/api/pictures/{done['picture']}").content))
        assert image.tobytes() == demo.generate(prompt, list(words), seed=seed).image.tobytes()
        assert second.post("/api/maps", picture=done["picture"], concepts=list(words)).status_code == 200


def test_a_model_without_an_example_says_so(demo: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conceptlens.web.app.EXAMPLES", {})
    with TestClient(create_app(demo), base_url=HOME) as client:
        tab = Tab(client)
        assert tab.about["example"] is False
        assert set(tab.about["sample"].split()) <= set(demo.vocabulary or ())
        assert tab.post("/api/example").status_code == 404


def test_a_painting_can_be_looked_at_on_its_way(demo: Session, tab: Tab) -> None:
    answer = tab.post("/api/paint", prompt="a red house", seed=5, steps=60)
    address = f"/api/jobs/{answer.json()['job']}"
    seen = None
    while seen is None:
        told = tab.get(address).json()
        assert told["state"] in ("waiting", "running")
        if "sketch" in told:
            assert 1 <= told["sketch"] <= told["step"] + 1
            seen = Image.open(io.BytesIO(tab.get(f"{address}/sketch").content))
    assert seen.size == (64, 64)
    tab.client.delete(address, headers=tab.headers)
    tab.finish(answer)
    assert tab.get("/api/jobs/none/sketch").status_code == 404


def test_the_last_sketch_is_the_picture(demo: Session) -> None:
    latents: list[torch.Tensor] = []

    def look(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        latents.append(tensors["latents"].clone())
        return tensors

    options: dict[str, Any] = {"num_inference_steps": 2, "callback_on_step_end": look}
    maps = demo.generate("a red house", WORDS, seed=5, **options)
    sketch = sketch_of(demo.pipeline, latents[-1])
    assert sketch is not None
    np.testing.assert_allclose(np.asarray(sketch, int), np.asarray(maps.image, int), atol=1)
    assert sketch_of(demo.pipeline, latents[-1][:, :5]) is None


def test_a_guided_painting_is_the_librarys(demo: Session, tab: Tab) -> None:
    assert tab.about["guides"] == ["tsam:transformer"]
    wish = {"prompt": "a red house", "seed": 5, "steps": 3}
    done = tab.finish(tab.post("/api/paint", guide="tsam:transformer", **wish))
    image = Image.open(io.BytesIO(tab.get(f"/api/pictures/{done['picture']}").content))
    guided = demo.generate(
        "a red house", ["house"], seed=5, num_inference_steps=3, guide="tsam:transformer", background=False
    )
    assert image.tobytes() == guided.image.tobytes()
    assert "guidance (tsam:transformer)" in done["how"]
    plain = tab.finish(tab.post("/api/paint", **wish))
    assert tab.get(f"/api/pictures/{plain['picture']}").content != tab.get(f"/api/pictures/{done['picture']}").content
    assert tab.post("/api/paint", guide="tsam", **wish).status_code == 422


def test_guidance_is_as_strong_as_it_is_asked_for(demo: Session, tab: Tab) -> None:
    wish = {"prompt": "a red house", "seed": 5, "steps": 2}
    done = tab.finish(tab.post("/api/paint", guide="tsam:transformer", strength=4, **wish))
    usual = guidance_named("tsam:transformer")
    strong = replace(usual, alpha=4 * usual.alpha)
    guided = demo.generate("a red house", ["house"], seed=5, num_inference_steps=2, guide=strong, background=False)
    image = Image.open(io.BytesIO(tab.get(f"/api/pictures/{done['picture']}").content))
    assert image.tobytes() == guided.image.tobytes()
    assert "guidance (tsam:transformer, 4 times its usual strength)" in done["how"]


def test_one_word_gets_company_and_unknown_ones_a_note(tab: Tab, picture: str) -> None:
    told, arrays = unpack(tab.post("/api/maps", picture=picture, concepts=["dragon"]).content)
    assert told["asked"] == 1
    assert len(told["concepts"]) == len(arrays["scores"]) > 1
    assert any("never trained on dragon" in note for note in told["notes"])


def test_words_are_ranked_at_each_patch(demo: Session, tab: Tab, picture: str, scene: Image.Image) -> None:
    words = tab.about["words"]
    assert "house" in words
    assert not {"a", "under", "red"} & set(words)
    told, arrays = unpack(tab.post("/api/ranking", picture=picture, concepts=words).content)
    assert told["words"] == words
    known = presence(demo, demo.read(scene), words)
    assert told["absent"]
    assert set(told["absent"]) <= {each.concept for each in known if each.chance is not None and each.chance < 0.5}
    np.testing.assert_allclose(arrays["scores"].sum(0), 1, atol=0.02)
    assert np.array_equal(arrays["scores"], half(demo.probe(demo.read(scene), words).scores))


@pytest.mark.parametrize(
    ("kind", "first"), [("overlay", b"\x89PNG"), ("npz", b"PK"), ("png", b"\x89PNG"), ("report", b"<!doctype html>")]
)
def test_files_can_be_taken_away(tab: Tab, picture: str, kind: str, first: bytes) -> None:
    answer = tab.post("/api/probe", picture=picture, concepts=WORDS, format=kind)
    assert answer.status_code == 200
    assert answer.content.startswith(first)
    assert re.fullmatch(r'attachment; filename="[a-z]+\.[a-z]+"', answer.headers["content-disposition"])


def test_masks_come_as_an_archive(demo: Session, tab: Tab, picture: str, scene: Image.Image) -> None:
    archive = zipfile.ZipFile(
        io.BytesIO(tab.post("/api/probe", picture=picture, concepts=WORDS, format="masks").content)
    )
    assert {"labels.png", "coco.json", "mask-0-house.png", "cutout-2-sky.png"} <= set(archive.namelist())
    labels = np.asarray(Image.open(io.BytesIO(archive.read("labels.png"))))
    assert np.array_equal(labels, demo.probe(demo.read(scene), WORDS).segmentation())


def test_painting_can_be_cancelled_and_leaves_no_hook(demo: Session, tab: Tab) -> None:
    answer = tab.post("/api/paint", prompt="a red house", steps=100)
    busy = tab.post("/api/paint", prompt="a boat")
    assert busy.status_code == 409
    assert "busy with another picture" in busy.json()["error"]
    tab.client.delete(f"/api/jobs/{answer.json()['job']}", headers=tab.headers)
    told = tab.finish(answer)
    assert told["state"] == "cancelled"
    assert told["step"] < 100
    assert hooks_left(demo) == []
    assert tab.finish(tab.post("/api/paint", prompt="a boat", steps=1))["state"] == "done"


def test_tabs_do_not_see_each_other(client: TestClient, tab: Tab, picture: str) -> None:
    other = Tab(client)
    assert other.about["tab"] != tab.about["tab"]
    assert other.get(f"/api/pictures/{picture}").status_code == 404
    assert other.post("/api/maps", picture=picture, concepts=WORDS).status_code == 404


FOREIGN = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": "http://evil.example"},
    {"origin": "http://127.0.0.1:81"},
    {"origin": "null"},
    {"origin": "http://evil.example", "sec-fetch-site": "same-origin"},
]
CHANGING = [("POST", f"/api/{name}") for name in ("tabs", "example", "paint", "read", "maps", "ranking", "probe")]


@pytest.mark.parametrize("headers", FOREIGN, ids=range(len(FOREIGN)))
def test_pages_of_other_sites_are_turned_away(client: TestClient, tab: Tab, headers: dict[str, str]) -> None:
    before = store_of(client).counts()["tabs"]
    for method, address in [*CHANGING, ("DELETE", "/api/jobs/none")]:
        answer = client.request(method, address, headers={**tab.headers, **headers})
        assert answer.status_code == 403, address
        assert answer.json()["error"] == "this page is not for use by other pages. Open its own address."
    assert store_of(client).counts()["tabs"] == before


def test_its_own_pages_are_not(client: TestClient) -> None:
    assert client.post("/api/tabs", headers={"sec-fetch-site": "same-origin", "origin": HOME}).status_code == 201
    served = {"host": "localhost:8321", "origin": "http://localhost:8321"}
    assert client.post("/api/tabs", headers=served).status_code == 201


def test_pictures_are_decoded_one_at_a_time(demo: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[int] = []
    seen: list[int] = []

    def counted(data: bytes, limits: Limits, most: int | None) -> Any:
        inside.append(1)
        seen.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        return opened(data, limits, most)

    monkeypatch.setattr("conceptlens.web.app.opened", counted)
    with TestClient(create_app(demo, limits=LIMITS), base_url=HOME) as client, ThreadPoolExecutor(6) as pool:
        tab = Tab(client)
        answers = list(pool.map(tab.upload, [png(Image.new("RGB", (64, 64)))] * 6))
        states = [tab.finish(answer)["state"] for answer in answers if answer.status_code == 202]
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert set(states) == {"done"}
    assert seen == [1] * 6


def test_the_oldest_picture_makes_room(client: TestClient, tab: Tab, scene: Image.Image) -> None:
    names = [tab.finish(tab.upload(png(scene)))["picture"] for _ in range(LIMITS.pictures + 1)]
    assert tab.get(f"/api/pictures/{names[0]}").status_code == 404
    assert [tab.get(f"/api/pictures/{name}").status_code for name in names[1:]] == [200] * LIMITS.pictures
    assert store_of(client).counts()["pictures"] == LIMITS.pictures


def test_new_tabs_do_not_push_out_one_that_is_used(demo: Session, scene: Image.Image) -> None:
    app = create_app(demo, limits=Limits(tabs=3))
    with TestClient(app, base_url=HOME) as client:
        looking, reading = Tab(client), Tab(client)
        name = looking.finish(looking.upload(png(scene)))["picture"]
        assert reading.get("/api/jobs/none").status_code == 404
        opened_only = [Tab(client) for _ in range(4)]
        assert [tab.get("/api/jobs/none").status_code for tab in opened_only] == [401, 401, 401, 404]
        assert reading.get("/api/jobs/none").status_code == 404
        assert looking.get(f"/api/pictures/{name}").status_code == 200
        assert app.state.store.counts()["tabs"] == 3


def test_of_tabs_with_pictures_the_one_unused_longest_is_forgotten_with_them(demo: Session, scene: Image.Image) -> None:
    app = create_app(demo, limits=Limits(tabs=2))
    with TestClient(app, base_url=HOME) as client:
        first, second = Tab(client), Tab(client)
        for tab in (first, second):
            tab.finish(tab.upload(png(scene)))
        assert app.state.store.counts()["pictures"] == 2
        Tab(client)
        assert first.get("/api/jobs/none").status_code == 401
        assert second.get("/api/jobs/none").status_code == 404
        assert app.state.store.counts() == {"tabs": 2, "pictures": 1, "bytes": demo.read(scene).nbytes}


def test_an_upload_that_waits_has_its_part_of_the_room(demo: Session) -> None:
    app = create_app(demo, limits=Limits(flight_bytes=100 * 100 * 3 + 1000))
    green = png(Image.new("RGB", (100, 100), (20, 160, 60)))
    with TestClient(app, base_url=HOME) as client:
        painting, waiting, late = Tab(client), Tab(client), Tab(client)
        started, first = painting.post("/api/paint", prompt="a red house", steps=60), waiting.upload(green)
        assert app.state.room.held == 100 * 100 * 3
        assert waiting.upload(green).status_code == 503
        turned_away = late.upload(green)
        assert turned_away.status_code == 503
        assert "too many pictures are on their way" in turned_away.json()["error"]
        client.delete(f"/api/jobs/{started.json()['job']}", headers=painting.headers)
        assert waiting.finish(first)["state"] == "done"
        assert late.finish(late.upload(green))["state"] == "done"
        assert app.state.room.held == 0


def test_the_memory_of_records_is_bounded(demo: Session, scene: Image.Image) -> None:
    each = demo.read(scene).nbytes
    app = create_app(demo, limits=Limits(record_bytes=2 * each))
    with TestClient(app, base_url=HOME) as client:
        tab = Tab(client)
        for _ in range(4):
            tab.finish(tab.upload(png(scene)))
        assert app.state.store.counts() == {"tabs": 1, "pictures": 2, "bytes": 2 * each}


def test_two_hundred_requests_at_once(tab: Tab, picture: str) -> None:
    """All are answered, each with the bits of its own question."""
    questions = [["house", "sky"], ["tree", "grass"], ["sun", "sea"], ["house", "tree"]]
    alone = [tab.post("/api/maps", picture=picture, concepts=q).content for q in questions]
    expected = [unpack(data)[1]["scores"] for data in alone]

    def ask(number: int) -> Any:
        if number % 8 > 3:
            return tab.get(f"/api/pictures/{picture}")
        return tab.post("/api/maps", picture=picture, concepts=questions[number % 8])

    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(ask, range(200)))
    assert {answer.status_code for answer in answers} == {200}
    for number, answer in enumerate(answers):
        if number % 8 < 4:
            assert np.array_equal(unpack(answer.content)[1]["scores"], expected[number % 8])


def test_a_full_queue_turns_away_and_recovers(demo: Session, scene: Image.Image) -> None:
    with TestClient(create_app(demo, limits=Limits(waiting=2)), base_url=HOME) as client:
        painting, tabs = Tab(client), [Tab(client) for _ in range(12)]
        started = painting.post("/api/paint", prompt="a red house", steps=60)
        answers = [tab.upload(png(scene)) for tab in tabs]
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {202, 503}
        assert statuses.count(202) <= 3
        turned_away = answers[statuses.index(503)]
        assert turned_away.headers["retry-after"] == "2"
        assert "waiting for the model" in turned_away.json()["error"]
        client.delete(f"/api/jobs/{started.json()['job']}", headers=painting.headers)
        painting.finish(started)
        for tab, answer in zip(tabs, answers, strict=True):
            if answer.status_code == 202:
                assert tab.finish(answer)["state"] == "done"
        assert painting.finish(painting.upload(png(scene)))["state"] == "done"


def test_an_unexpected_failure_is_one_line(demo: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    client = TestClient(create_app(demo), base_url=HOME, raise_server_exceptions=False)
    tab = Tab(client)
    monkeypatch.setattr(type(demo), "generate", lambda *_, **__: {}["secret detail"])
    told = tab.finish(tab.post("/api/paint", prompt="a red house"))
    assert told["state"] == "failed"
    assert told["status"] == 500
    assert "secret" not in told["error"]


def test_large_pictures_are_shrunk_and_keep_their_aspect(tab: Tab) -> None:
    name = tab.finish(tab.upload(png(Image.new("RGB", (600, 300), (90, 160, 70)))))["picture"]
    assert Image.open(io.BytesIO(tab.get(f"/api/pictures/{name}").content)).size == (256, 128)


def test_the_page_fetches_nothing_from_elsewhere(client: TestClient) -> None:
    folder = files("conceptlens") / "web" / "static"
    assert sorted(STATIC) == sorted(path.name for path in folder.iterdir())
    for name in STATIC:
        answer = client.get(f"/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == STATIC[name]
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        text = answer.text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//cdn", text), name
    assert client.get("/").text == client.get("/index.html").text


def test_every_control_of_the_page_has_a_name_and_every_name_in_the_script_exists(client: TestClient) -> None:
    page = client.get("/").text
    script = "".join(client.get(f"/{name}.js").text for name in SCRIPTS)
    known = set(re.findall(r'id="([\w-]+)"', page))
    assert set(re.findall(r'\bat\("([\w-]+)"\)', script)) <= known
    for field in re.findall(r"<(?:input|select|textarea|progress|canvas)\b[^>]*>", page):
        name = re.search(r'id="([\w-]+)"', field)
        assert name, field
        labelled = f'for="{name[1]}"' in page or "aria-label=" in field
        wrapped = re.search(rf"<label[^>]*>(?:(?!</label>).)*{re.escape(field)}", page, flags=re.S)
        assert labelled or wrapped, field


def test_maps_survive_their_journey() -> None:
    rng = np.random.default_rng(0)
    scores, parts = rng.normal(size=(3, 5, 4)).astype(np.float32) * 1e6, rng.random((2, 3, 1, 1)).astype(np.float32)
    arrays = {"scores": (scores, "float16"), "parts": (parts, "uint8"), "flat": (np.ones((1, 3)), "uint8")}
    data = pack({"concepts": ["é", "b"]}, arrays)
    told, back = unpack(data)
    assert told == {"concepts": ["é", "b"]}
    np.testing.assert_allclose(back["scores"], scores, rtol=1e-3)
    np.testing.assert_allclose(back["parts"], parts, atol=0.5 / 255)
    assert np.array_equal(back["flat"], np.ones((1, 3)))
    assert json.loads(data[4 : 4 + int.from_bytes(data[:4], "little")])["arrays"]["parts"]["at"] % 4 == 0
