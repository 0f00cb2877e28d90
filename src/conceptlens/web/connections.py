"""uvicorn's HTTP connections, with time limits."""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.h11_impl import H11Protocol

GRACE = 2.0
"""Seconds that a request under way gets when the server stops."""
PIECE = 16 * 2**10
"""Bytes that are looked at together, and the size of a header: a longer one is refused, also when it comes at once."""
_TOLD = json.dumps({"error": "this is not an HTTP request, or its header is too long. Correct or shorten it."}).encode()
NO_HTTP = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_TOLD), _TOLD)
)
"""The answer to bytes that cannot be read as a request."""


class Connection(H11Protocol):
    """An HTTP connection that ends when the other side keeps it waiting.

    uvicorn limits the time between two requests only. The same time (`timeout_keep_alive`) is given here to the header
    of a request as a whole, to the rest of a body that nobody reads any more, and to taking an answer. Bodies that are
    read have their limits in `flight`.
    """

    _deadline: asyncio.TimerHandle | None = None
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Waits for a first header."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Waits on, unless a request is now complete enough to be answered."""
        for at in range(0, len(data), PIECE):
            if not self._refused:
                super().data_received(data[at : at + PIECE])
        if self.flow.write_paused or self._refused:
            return
        if self._answering():
            self._stop_waiting()
        else:
            self._expect()

    def send_400_response(self, msg: str) -> None:
        """Refuses what is not HTTP, and keeps listening: closing with bytes unread would take the answer back."""
        self._refused = True
        if self._answering():
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.abort()
                return
        self.transport.write(NO_HTTP)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._stop_waiting()
        self._expect()

    def pause_writing(self) -> None:
        """An answer is not taken as fast as it is given."""
        super().pause_writing()
        self._stop_waiting()
        self._expect()

    def resume_writing(self) -> None:
        """It is taken again."""
        super().resume_writing()
        self._stop_waiting()

    def timeout_keep_alive_handler(self) -> None:
        """Ends a connection without a further request, also when it never took its last answer."""
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Lets a request under way finish, but not wait for the other side."""
        super().shutdown()
        self.loop.call_later(GRACE, self.transport.abort)

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.timeout_keep_alive, self._end)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # closing would wait until the buffer is taken
        else:
            super().timeout_keep_alive_handler()
