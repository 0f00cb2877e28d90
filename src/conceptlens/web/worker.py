"""Threads that work for all tabs in turn: one touches the model, one opens and writes pictures."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from conceptlens.values.errors import one_line
from conceptlens.web.errors import RequestError

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """A call that waits for its turn."""

    act: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)

    def run(self) -> None:
        """Makes it, unless it was cancelled."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(plainly(self.act))
        except BaseException as error:
            self.future.set_exception(error)
            self = None  # the error's traceback holds this frame, and would keep what `act` holds


class Worker:
    """Runs calls one after another in its own thread. Lines of calls take turns, one call each.

    Args:
        waiting: how many calls may wait. A further one is refused with status 503, or, where another line is longer
            than its own, the last call of that line is.
        name: of the thread.
    """

    def __init__(self, waiting: int, name: str = "conceptlens-model") -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._limit, self._lock = waiting, threading.Lock()
        self._handed_in = 0
        self._lines: dict[str, dict[int, Call]] = {}  # the line whose turn is next comes first
        self._running = False

    def submit(self, act: Callable[[], T], line: str = "") -> tuple[Future[T], int]:
        """Queues a call; its result to come, and its number.

        Args:
            act: what to do.
            line: whose it is, usually a tab's.

        Raises:
            RequestError: when too many calls wait.
        """
        call = Call(act)
        with self._lock:
            last = self._last_of_a_longer(line) if self._waiting() >= self._limit else None
            self._handed_in += 1
            number = self._handed_in
            self._lines.setdefault(line, {})[number] = call
        if last is not None and last.future.set_running_or_notify_cancel():
            last.future.set_exception(self._busy())
        call.future.add_done_callback(lambda done: self._forget(line, number))
        self._pool.submit(self._next)
        return call.future, number

    async def run(self, act: Callable[[], T], line: str = "") -> T:
        """The result of a call, without blocking other requests meanwhile. Who stops waiting for it cancels it."""
        return await asyncio.wrap_future(self.submit(act, line)[0])

    def ahead_of(self, number: int) -> int:
        """How many calls come before one that waits, if no further ones are handed in; the one that runs counts."""
        with self._lock:
            for mine, line in enumerate(self._lines.values()):
                if number in line:
                    place = list(line).index(number)
                    others = enumerate(len(other) for other in self._lines.values() if other is not line)
                    return self._running + place + sum(min(size, place + (at < mine)) for at, size in others)
            return int(self._running)

    def close(self) -> None:
        """Drops what waits; what runs is finished."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            waiting = [call for line in self._lines.values() for call in line.values()]
        for call in waiting:
            call.future.cancel()

    def _next(self) -> None:
        with self._lock:
            if not self._lines:
                return  # the call that this turn was for was cancelled
            name, line = next(iter(self._lines.items()))
            call = line.pop(next(iter(line)))
            del self._lines[name]
            if line:
                self._lines[name] = line
            self._running = True
        try:
            call.run()
        finally:
            self._running = False

    def _waiting(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def _last_of_a_longer(self, line: str) -> Call:
        longest = max(self._lines.values(), key=len, default={})
        if len(longest) <= len(self._lines.get(line, ())) + 1:
            raise self._busy()
        return longest.popitem()[1]

    def _busy(self) -> RequestError:
        return RequestError(503, f"{self._limit} requests are waiting for the model. Try again in a moment.")

    def _forget(self, line: str, number: int) -> None:
        with self._lock:
            calls = self._lines.get(line, {})
            calls.pop(number, None)
            if not calls:
                self._lines.pop(line, None)


def plainly(act: Callable[[], T]) -> T:
    """A result; a device that runs out of memory is a `RequestError` with status 503."""
    try:
        return act()
    except torch.OutOfMemoryError as error:
        raise RequestError(503, f"{one_line(error)}. Use a smaller picture or fewer words.") from error


def with_notes(act: Callable[[], T]) -> tuple[T, list[str]]:
    """A result and the warnings that came with it, each once. Only the worker's thread may use it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = act()
    ours = [str(note.message) for note in caught if issubclass(note.category, UserWarning)]
    return result, list(dict.fromkeys(ours))
