"""The page served by uvicorn to others that stand still, go away or never end: bounded memory, bounded time."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import numpy as np
import pytest
from page import png
from PIL import Image

pytest.importorskip("uvicorn", reason="the page is served with conceptlens[web]")

import uvicorn

from conceptlens.session import Session
from conceptlens.web import Limits, answers, create_app
from conceptlens.web.addresses import bind
from conceptlens.web.server import configured

MB = 2**20
LIMITS = Limits(patience=2, request_seconds=4, upload_bytes=4 * MB, flight_bytes=8 * MB, connections=24)
RNG = np.random.default_rng(0)
GREEN = png(Image.new("RGB", (64, 64), (20, 160, 60)))


class Served:
    """The page at a port of this computer."""

    def __init__(self, session: Session, limits: Limits) -> None:
        self.app = create_app(session, limits=limits)
        self.socket = bind("127.0.0.1", 0)
        self.port = self.socket.getsockname()[1]
        self.server = uvicorn.Server(configured(self.app, limits))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        until(lambda: self.server.started)
        self.tab = json.loads(self.ask("POST", "/api/tabs")[1])["tab"]

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        self.socket.close()
        assert not self.thread.is_alive()

    def ask(self, method: str, address: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, address, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def post(self, address: str, **fields: Any) -> tuple[int, bytes]:
        headers: dict[str, Any] = {"x-conceptlens-tab": self.tab, "content-type": "application/json"}
        return self.ask("POST", address, json.dumps(fields).encode(), **headers)

    def upload(self, data: bytes) -> str:
        """The name of an uploaded picture."""
        status, told = self.ask("POST", "/api/read", data, **{"x-conceptlens-tab": self.tab})
        assert status == 202, told
        address = f"/api/jobs/{json.loads(told)['job']}"
        until(lambda: b"done" in self.ask("GET", address, **{"x-conceptlens-tab": self.tab})[1])
        return json.loads(self.ask("GET", address, **{"x-conceptlens-tab": self.tab})[1])["picture"]

    def begin(self, method: str, address: str, body: bytes = b"", length: int | None = None, kind: str = "") -> Any:
        """A connection on which a request has begun, of whose body a part was sent."""
        head = f"{method} {address} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\nx-conceptlens-tab: {self.tab}\r\n"
        head += f"content-type: {kind}\r\ncontent-length: {len(body) if length is None else length}\r\n\r\n"
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.sendall(head.encode() + body)
        return connection

    @property
    def held(self) -> int:
        return self.app.state.room.held


def until(happened: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@contextmanager
def serving(session: Session, limits: Limits) -> Iterator[Served]:
    page = Served(session, limits)
    try:
        yield page
    finally:
        page.stop()


@pytest.fixture(scope="module")
def page(demo: Session) -> Iterator[Served]:
    with serving(demo, LIMITS) as served:
        yield served


def trickle(connection: socket.socket, data: bytes) -> None:
    """Sends a byte every quarter of a second, until the other side has closed."""
    for byte in data:
        try:
            connection.sendall(bytes([byte]))
        except OSError:
            return
        time.sleep(0.25)
    pytest.fail("all of it was taken")


def status_of(connection: socket.socket) -> int:
    """The status that is answered; 0 for a connection that is closed without an answer."""
    with connection:
        try:
            said = connection.recv(65536)
        except ConnectionResetError:
            return 0
        return int(said.split()[1]) if said else 0


def test_stalled_uploads_share_a_bounded_room_and_make_way(page: Served) -> None:
    stalled = [page.begin("POST", "/api/read", bytes(3 * MB), length=4 * MB) for _ in range(6)]
    until(lambda: page.held >= 6 * MB)
    assert page.held <= LIMITS.flight_bytes
    time.sleep(1.1)  # those that stand still for a second must make room for others
    page.upload(png(Image.fromarray(RNG.integers(0, 256, (1000, 1000, 3), dtype=np.uint8))))
    statuses = [status_of(connection) for connection in stalled]
    assert set(statuses) == {408, 503}
    until(lambda: page.held == 0)


def test_a_cancelled_upload_is_let_go_at_once(page: Served) -> None:
    uploads = [page.begin("POST", "/api/read", bytes(3 * MB), length=4 * MB) for _ in range(2)]
    until(lambda: page.held == 6 * MB)
    for connection in uploads:
        connection.close()
    until(lambda: page.held == 0, seconds=LIMITS.patience / 2)


def test_an_upload_that_trickles_has_an_end(page: Served) -> None:
    begun = time.monotonic()
    with page.begin("POST", "/api/read", length=4 * MB) as connection:
        trickle(connection, bytes(40))
    assert LIMITS.request_seconds - 0.5 < time.monotonic() - begun < LIMITS.request_seconds + 2 * LIMITS.patience + 1
    assert page.held == 0


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nhost: 127"])
def test_a_header_has_a_time_limit(page: Served, sent: bytes) -> None:
    begun = time.monotonic()
    connection = socket.create_connection(("127.0.0.1", page.port), timeout=20)
    connection.sendall(sent)
    assert status_of(connection) == 0
    assert LIMITS.patience - 0.5 < time.monotonic() - begun < 2 * LIMITS.patience


def test_a_second_header_has_a_time_limit_however_slowly_it_comes(page: Served) -> None:
    with page.begin("GET", "/icon.svg") as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        begun = time.monotonic()
        trickle(connection, b"GET /" + b"a" * 40)
    assert time.monotonic() - begun < 2 * LIMITS.patience


def test_an_answer_that_is_not_taken_is_let_go(demo: Session) -> None:
    noise = RNG.integers(0, 256, (1400, 1400, 3), dtype=np.uint8)
    with serving(demo, Limits(patience=1)) as page:
        name = page.upload(png(Image.fromarray(noise)))
        connection = page.begin("GET", f"/api/pictures/{name}")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        until(lambda: page.held > noise.nbytes)
        until(lambda: page.held == 0 and not page.server.server_state.connections)
        connection.close()
        picture = page.ask("GET", f"/api/pictures/{name}", **{"x-conceptlens-tab": page.tab})[1]
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture))), noise)


def test_what_nobody_waits_for_is_not_computed(page: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, computed, go_on = page.upload(GREEN), [], threading.Event()

    def answer(session: Session, picture: Any, asked: Any, limits: Limits, *, parts: bool) -> bytes:
        computed.append(asked.concepts[0])
        go_on.wait(20)
        return b"maps"

    monkeypatch.setattr(answers, "answer", answer)

    def begin(word: str) -> Any:
        fields = json.dumps({"picture": picture, "concepts": [word]}).encode()
        return page.begin("POST", "/api/maps", fields, kind="application/json")

    first = begin("first")
    until(lambda: computed == ["first"])
    abandoned = [begin(f"abandoned {number}") for number in range(6)]
    last = begin("last")
    until(lambda: len(page.server.server_state.tasks) == 8)
    for connection in abandoned:
        connection.close()
    until(lambda: len(page.server.server_state.tasks) == 2)
    go_on.set()
    assert [status_of(first), status_of(last)] == [200, 200]
    assert computed == ["first", "last"]


def test_too_many_connections_are_turned_away_and_the_page_recovers(page: Served) -> None:
    idle = [socket.create_connection(("127.0.0.1", page.port), timeout=20) for _ in range(LIMITS.connections)]
    until(lambda: len(page.server.server_state.connections) == len(idle))
    assert page.ask("GET", "/") == (503, b"Service Unavailable")
    assert {status_of(connection) for connection in idle} == {0}
    assert page.ask("GET", "/")[0] == 200


def test_a_stalled_request_does_not_keep_the_server(demo: Session) -> None:
    with serving(demo, Limits()) as page:
        stalled = page.begin("POST", "/api/read", bytes(1000), length=2000)
        until(lambda: page.held == 1000)
        begun = time.monotonic()
        page.stop()
        assert time.monotonic() - begun < 5
        stalled.close()


RAW: list[bytes] = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: evil.example\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\nhost: HOST\r\n\r\n",
    b"GET /%00 HTTP/1.1\r\nhost: HOST\r\n\r\n",
    b"GET /%ff%fe HTTP/1.1\r\nhost: HOST\r\n\r\n",
    b"GET /../../etc/passwd HTTP/1.1\r\nhost: HOST\r\n\r\n",
    b"GET //evil.example/ HTTP/1.1\r\nhost: HOST\r\n\r\n",
    b"GET http://evil.example/ HTTP/1.1\r\nhost: HOST\r\n\r\n",
    b"GET /index.html/ HTTP/1.1\r\nhost: HOST\r\n\r\n",
    b"BREW / HTTP/1.1\r\nhost: HOST\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nhost: HOST\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: HOST\r\nx: " + b"y" * 70_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: HOST\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: HOST\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
    b"POST /api/tabs HTTP/1.1\r\nhost: HOST\r\ncontent-length: -1\r\n\r\n",
    b"POST /api/tabs HTTP/1.1\r\nhost: HOST\r\ncontent-length: 1e3\r\n\r\n",
    b"POST /api/tabs HTTP/1.1\r\nhost: HOST\r\ncontent-length: " + b"9" * 5000 + b"\r\n\r\n",
    b"POST /api/tabs HTTP/1.1\r\nhost: HOST\r\ncontent-length: 99999999999999999\r\n\r\n",
    b"POST /api/tabs HTTP/1.1\r\nhost: HOST\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
    b"POST /api/tabs HTTP/1.1\r\nhost: HOST\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"POST /api/tabs HTTP/1.1\r\nhost: HOST\r\norigin: null\r\ncontent-length: 0\r\n\r\n",
]


@pytest.mark.parametrize("sent", RAW, ids=range(len(RAW)))
def test_damaged_http_is_refused_in_one_line(page: Served, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", page.port), timeout=10) as connection:
        connection.sendall(sent.replace(b"HOST", f"127.0.0.1:{page.port}".encode()))
        answer = HTTPResponse(connection)
        answer.begin()
        told = answer.read().decode()
        answer.close()
    assert 400 <= answer.status < 500
    assert told
    assert "\n" not in told
    assert "Traceback" not in told
    assert page.ask("GET", "/")[0] == 200
