"""Requests that nobody should send: the right status, one plain line, and a page that goes on working."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from page import HOME, LIMITS, Tab, png
from PIL import Image, features
from starlette.testclient import TestClient

from conceptlens.maps.picture_files import open_image
from conceptlens.session import Session
from conceptlens.web import create_app

LONG = "x" * 70_000


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb() -> bytes:
    """A PNG whose header promises a billion pixels."""
    header = struct.pack(">IIBBBBB", 40_000, 25_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))


def saved(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


GREEN = Image.new("RGB", (64, 64), (20, 160, 60))
FIELDS: list[tuple[int, str, dict[str, Any]]] = [
    (422, "/api/paint", {}),
    (422, "/api/paint", {"prompt": ""}),
    (422, "/api/paint", {"prompt": "   "}),
    (422, "/api/paint", {"prompt": 7}),
    (422, "/api/paint", {"prompt": None}),
    (422, "/api/paint", {"prompt": ["a house"]}),
    (422, "/api/paint", {"prompt": "y" * 2001}),
    (413, "/api/paint", {"prompt": LONG}),
    (422, "/api/paint", {"prompt": "\ud800 house"}),
    (422, "/api/paint", {"prompt": "a house", "steps": 0}),
    (422, "/api/paint", {"prompt": "a house", "steps": 101}),
    (422, "/api/paint", {"prompt": "a house", "steps": 2.5}),
    (422, "/api/paint", {"prompt": "a house", "steps": True}),
    (422, "/api/paint", {"prompt": "a house", "steps": "9"}),
    (422, "/api/paint", {"prompt": "a house", "seed": -1}),
    (422, "/api/paint", {"prompt": "a house", "seed": "\ud800"}),
    (422, "/api/paint", {"prompt": "a house", "seed": 2**31}),
    (422, "/api/paint", {"prompt": "a house", "height": 4096}),
    (422, "/api/maps", {}),
    (422, "/api/maps", {"picture": "PICTURE"}),
    (422, "/api/maps", {"picture": "PICTURE", "concepts": "house"}),
    (422, "/api/maps", {"picture": "PICTURE", "concepts": []}),
    (422, "/api/maps", {"picture": "PICTURE", "concepts": [""]}),
    (422, "/api/maps", {"picture": "PICTURE", "concepts": ["  "]}),
    (422, "/api/maps", {"picture": "PICTURE", "concepts": ["house", "house"]}),
    (422, "/api/maps", {"picture": "PICTURE", "concepts": ["house", 3]}),
    (422, "/api/maps", {"picture": "PICTURE", "concepts": ["house", None]}),
    (422, "/api/maps", {"picture": "PICTURE", "concepts": ["z" * 81]}),
    (422, "/api/maps", {"picture": "PICTURE", "concepts": [f"w{i}" for i in range(25)]}),
    (422, "/api/maps", {"picture": "PICTURE", "concepts": ["\udc80", "sky"]}),
    (422, "/api/maps", {"picture": "PICTURE", "concepts": ["house", "sky"], "space": "cross"}),
    (422, "/api/maps", {"picture": "PICTURE", "concepts": ["house", "sky"], "space": 1}),
    (422, "/api/maps", {"picture": "PICTURE", "concepts": ["house", "sky"], "isolate": "yes"}),
    (422, "/api/maps", {"picture": "PICTURE", "concepts": ["house", "sky"], "parts": 1}),
    (422, "/api/maps", {"picture": "PICTURE", "concepts": ["house", "sky"], "layers": [99]}),
    (422, "/api/maps", {"picture": 5, "concepts": ["house"]}),
    (404, "/api/maps", {"picture": "../../etc/passwd", "concepts": ["house", "sky"]}),
    (404, "/api/maps", {"picture": "", "concepts": ["house", "sky"]}),
    (422, "/api/ranking", {"picture": "PICTURE", "concepts": [f"w{i}" for i in range(201)]}),
    (404, "/api/ranking", {"picture": "none", "concepts": ["house", "sky"]}),
    (422, "/api/probe", {"picture": "PICTURE", "concepts": ["house", "sky"], "format": None}),
    (422, "/api/paint", {"prompt": "a house", "wait": "true"}),
    (422, "/api/paint", {"prompt": "a house", "guide": "conform"}),
    (422, "/api/paint", {"prompt": "a house", "guide": "tsam:transformer", "strength": 11}),
    (422, "/api/paint", {"prompt": "a house", "guide": "tsam:transformer", "strength": True}),
    (422, "/api/paint", {"prompt": "a house", "strength": 2}),
    (422, "/api/maps", {"picture": "PICTURE", "concepts": ["house"], "step": -1}),
    (422, "/api/maps", {"picture": "PICTURE", "concepts": ["house"], "layer": 999}),
    (422, "/api/maps", {"picture": "PICTURE", "concepts": ["house"], "layer": "2"}),
    (422, "/api/maps", {"picture": "PICTURE", "concepts": ["house"], "edges": 1}),
    (422, "/api/probe", {"picture": "PICTURE", "concepts": ["house", "sky"], "format": "../../maps"}),
    (422, "/api/probe", {"picture": "PICTURE", "concepts": ["house", "sky"], "format": "passwd"}),
]
BODIES: list[tuple[int, bytes, str]] = [
    (400, b"", "application/json"),
    (400, b"{", "application/json"),
    (400, b"\xff\xfe{}", "application/json"),
    (400, b"[" * 60_000, "application/json"),
    (422, b"[]", "application/json"),
    (422, b"null", "application/json; charset=utf-8"),
    (415, b'{"prompt": "a house"}', "text/plain"),
    (415, b"prompt=house", "application/x-www-form-urlencoded"),
]
UPLOADS: list[tuple[int, bytes]] = [
    (415, b""),
    (415, b"no picture at all"),
    (415, b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    (415, b"GIF89a"),
    (413, bomb()),
    (413, b"\x89PNG\r\n\x1a\n" + bytes(LIMITS.upload_bytes)),
    (413, png(Image.new("L", (700, 500)))),
    (422, png(GREEN)[:-40]),
    (422, png(Image.new("RGB", (4, 4)))),
    (422, png(Image.new("RGB", (400, 20)))),
    (415, saved(GREEN, "PPM")),
]


def plain(answer: Any, status: int) -> None:
    assert answer.status_code == status, (answer.status_code, answer.text[:200])
    told = answer.json()["error"]
    assert told
    assert "\n" not in told
    assert "Traceback" not in told


@pytest.fixture(scope="module")
def kept(demo: Session) -> Iterator[tuple[Tab, str]]:
    with TestClient(create_app(demo, limits=LIMITS), base_url=HOME) as client:
        tab = Tab(client)
        yield tab, tab.finish(tab.upload(png(GREEN)))["picture"]


def test_there_are_enough_of_them() -> None:
    assert len(FIELDS) + len(BODIES) + len(UPLOADS) >= 50


@pytest.mark.parametrize(("status", "address", "fields"), FIELDS, ids=range(len(FIELDS)))
def test_fields(kept: tuple[Tab, str], status: int, address: str, fields: dict[str, Any]) -> None:
    tab, picture = kept
    plain(tab.post(address, **{k: picture if v == "PICTURE" else v for k, v in fields.items()}), status)


@pytest.mark.parametrize(("status", "body", "kind"), BODIES, ids=range(len(BODIES)))
def test_bodies(kept: tuple[Tab, str], status: int, body: bytes, kind: str) -> None:
    tab, _ = kept
    plain(tab.client.post("/api/paint", content=body, headers={**tab.headers, "content-type": kind}), status)


@pytest.mark.parametrize(("status", "data"), UPLOADS, ids=range(len(UPLOADS)))
def test_uploads(kept: tuple[Tab, str], status: int, data: bytes) -> None:
    plain(kept[0].upload(data), status)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0MM\0V\0\0\0\x08",
        b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\x1a\x01\x03\0\x02\0\0\0\0\0\0\0\0\0\0\0",
    ],
)
def test_a_picture_with_damaged_metadata_is_taken_as_it_is_stored(kept: tuple[Tab, str], exif: bytes) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 32), (20, 160, 60)).save(buffer, format="JPEG", exif=exif)
    assert open_image(Image.open(buffer)).size == (64, 32)
    assert kept[0].finish(kept[0].upload(buffer.getvalue()))["state"] == "done"


def test_this_computer_may_be_named_by_its_newer_address(kept: tuple[Tab, str]) -> None:
    assert kept[0].client.get("/", headers={"host": "[::1]:8321"}).status_code == 200


def test_an_upload_without_a_stated_length_is_bounded_too(kept: tuple[Tab, str]) -> None:
    tab, _ = kept
    endless = (bytes(10_000) for _ in range(1000))
    plain(tab.client.post("/api/read", content=endless, headers=tab.headers), 413)


@pytest.mark.parametrize(
    ("status", "method", "address"),
    [
        (404, "GET", "/nothing"),
        (404, "GET", "/static/../app.py"),
        (404, "GET", "/..%2f..%2fetc%2fpasswd"),
        (404, "GET", "/app.py"),
        (404, "GET", "/index.html/"),
        (404, "POST", "/api/paint/"),
        (405, "GET", "/api/paint"),
        (405, "PUT", "/api/maps"),
        (405, "POST", "/"),
        (404, "GET", "/api/jobs/none"),
        (404, "DELETE", "/api/jobs/none"),
        (404, "GET", "/api/pictures/..%2f..%2fetc"),
        (404, "GET", "/api/pictures/none"),
    ],
)
def test_addresses(kept: tuple[Tab, str], status: int, method: str, address: str) -> None:
    tab, _ = kept
    plain(tab.client.request(method, address, headers=tab.headers), status)


@pytest.mark.parametrize("address", ["/api/paint", "/api/read", "/api/maps", "/api/ranking", "/api/probe"])
def test_without_a_tab_nothing_is_done(kept: tuple[Tab, str], address: str) -> None:
    client = kept[0].client
    plain(client.post(address, json={}), 401)
    plain(client.post(address, json={}, headers={"x-conceptlens-tab": "guessed"}), 401)


def test_other_names_for_this_computer_are_refused(kept: tuple[Tab, str]) -> None:
    """A page elsewhere whose name was made to point here (DNS rebinding) gets nothing."""
    assert kept[0].client.get("/", headers={"host": "evil.example"}).status_code == 400


def test_the_page_still_answers(kept: tuple[Tab, str]) -> None:
    tab, picture = kept
    assert tab.post("/api/maps", picture=picture, concepts=["house", "sky"]).status_code == 200


def test_an_upload_of_all_the_bytes_that_are_allowed_is_taken(kept: tuple[Tab, str]) -> None:
    data = png(GREEN)
    data += bytes(LIMITS.upload_bytes - len(data))
    assert kept[0].finish(kept[0].upload(data))["state"] == "done"
    plain(kept[0].upload(data + b"0"), 413)


@pytest.mark.parametrize("kind", ["AVIF", "TIFF"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_newer_and_older_kinds_of_pictures_are_taken(kept: tuple[Tab, str], kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    whole = saved(GREEN, kind)
    done = kept[0].finish(kept[0].upload(whole))
    assert done["state"] == "done"
    shown = Image.open(io.BytesIO(kept[0].get(f"/api/pictures/{done['picture']}").content))
    assert shown.resize((1, 1)).getpixel((0, 0)) == pytest.approx((20, 160, 60), abs=3)
    for length in range(4, len(whole) - 200, len(whole) // 12):
        answer = kept[0].upload(whole[:length])
        assert answer.status_code in (415, 422), answer.text
        plain(answer, answer.status_code)
    page = kept[0].client.get("/").text
    assert f"image/{kind.lower()}" in page
