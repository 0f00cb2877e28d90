"""What is on its way to and from the page: bodies of requests and answers, bounded in memory and in time."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from conceptlens.web.errors import RequestError
from conceptlens.web.limits import Limits

T = TypeVar("T")
PIECE = 64 * 2**10
"""Bytes of an answer that are handed over at once."""
STILL = 1.0
"""Seconds without a byte after which an upload must make room for others."""


class Room:
    """The memory of everything on its way, all requests together.

    Args:
        limits: `flight_bytes` is its size; `patience` and `request_seconds` bound how long a body may take.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits, self._lock = limits, threading.Lock()
        self._shares: set[Share] = set()

    @property
    def held(self) -> int:
        """Bytes that are taken."""
        return sum(share.nbytes for share in self._shares)

    def share(self) -> Share:
        """A part of the room, empty yet; a `with` block frees it."""
        return Share(self)

    def grow(self, share: Share, nbytes: int) -> None:
        """Gives a share more bytes.

        Raises:
            RequestError: 503 when there is no room, and no upload that stands still could make some.
        """
        with self._lock:
            while self.held + nbytes > self.limits.flight_bytes:
                self._make_room(share)
            share.nbytes += nbytes
            share.grown = time.monotonic()
            self._shares.add(share)

    def free(self, share: Share) -> None:
        """Takes everything back from a share."""
        with self._lock:
            share.nbytes = 0
            self._shares.discard(share)

    def _make_room(self, growing: Share) -> None:
        before = time.monotonic() - STILL
        arriving = [each for each in self._shares if each.patience is not None and each is not growing]
        still = [each for each in arriving if each.grown < before]
        if not still:
            raise RequestError(503, "too many pictures are on their way here. Try again in a moment.")
        slowest = min(still, key=lambda each: each.grown)
        self._shares.discard(slowest)
        if slowest.patience is not None and not slowest.patience.expired():
            slowest.patience.reschedule(0)


class Share:
    """One request's part of a `Room`.

    Attributes:
        nbytes: what it holds.
        grown: when it last became larger (`time.monotonic`).
        patience: the time limit of a body that is arriving; None for anything else.
    """

    def __init__(self, room: Room) -> None:
        self.room, self.nbytes, self.grown = room, 0, time.monotonic()
        self.patience: asyncio.Timeout | None = None

    def __enter__(self) -> Share:
        return self

    def __exit__(self, *_: object) -> None:
        self.free()

    def grow(self, nbytes: int) -> None:
        """See `Room.grow`."""
        self.room.grow(self, nbytes)

    def free(self) -> None:
        """See `Room.free`."""
        self.room.free(self)


async def body_of(request: Request, limit: int, what: str, share: Share) -> bytes:
    """The body, read only as far and as long as it may go; the share holds it.

    Raises:
        RequestError: 413 for a larger one, 408 for one that stands still, 400 for one that ends early, 503 without
            room.
    """
    _check_size(request.headers.get("content-length", ""), limit, what)
    try:
        with io.BytesIO() as body:  # closed on the way out, since the traceback of an error would keep it in memory
            await _arrived(request, body, limit, what, share)
            return body.getvalue()
    except TimeoutError as error:
        raise RequestError(408, "the request stood still, or took too long. Send it again.") from error
    except ClientDisconnect as error:
        raise RequestError(400, "the request ended early. Send it again.") from error
    finally:
        share.patience = None


async def _arrived(request: Request, body: io.BytesIO, limit: int, what: str, share: Share) -> None:
    limits, loop = share.room.limits, asyncio.get_running_loop()
    end = loop.time() + limits.request_seconds
    async with asyncio.timeout(limits.patience) as share.patience, aclosing(request.stream()) as parts:
        async for part in parts:
            _check_size(str(body.tell() + len(part)), limit, what)
            share.grow(len(part))
            body.write(part)
            share.patience.reschedule(min(loop.time() + limits.patience, end))


def _check_size(size: str, limit: int, what: str) -> None:
    if size.isdecimal() and int(size) > limit:
        raise RequestError(413, f"{what} may have {limit:,} bytes; this one has more. Send a smaller one.")


async def attended(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of work that is abandoned when the client has disconnected.

    Raises:
        RequestError: 400 when the client has disconnected.
    """
    working, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise RequestError(400, "the client has gone before its answer was ready.")
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Answer(Response):
    """Bytes that leave in pieces as they are taken, and have a share of the room until the last piece has left.

    Args:
        data: the body.
        room: where it is counted; without room the answer is status 503.
    """

    def __init__(self, data: bytes, room: Room, media_type: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(data, media_type=media_type, headers=headers)
        self._data, self._room = data, room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""
        size = len(self._data)
        with self._room.share() as share:
            share.grow(size)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for at in range(0, max(size, 1), PIECE):
                piece = self._data[at : at + PIECE]
                await send({"type": "http.response.body", "body": piece, "more_body": at + PIECE < size})
