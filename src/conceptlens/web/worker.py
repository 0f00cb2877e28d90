"""The one thread that touches the model: first come, first served, with a bounded queue."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from conceptlens.errors import one_line
from conceptlens.web.errors import RequestError

T = TypeVar("T")


class Worker:
    """Runs calls one after another in a thread of its own.

    Args:
        waiting: how many calls may wait; further ones are refused with status 503.
    """

    def __init__(self, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="conceptlens-model")
        self._limit, self._lock = waiting, threading.Lock()
        self._handed_in = 0
        self._waiting: set[int] = set()
        self._running = False

    def submit(self, act: Callable[[], T]) -> tuple[Future[T], int]:
        """Queues a call; its result to come, and its number in line.

        Raises:
            RequestError: when the queue is full.
        """
        with self._lock:
            if len(self._waiting) >= self._limit:
                raise RequestError(
                    503, f"{len(self._waiting)} requests are waiting for the model. Try again in a moment."
                )
            self._handed_in += 1
            number = self._handed_in
            self._waiting.add(number)

        def start() -> T:
            with self._lock:
                self._waiting.discard(number)
                self._running = True
            try:
                return plainly(act)
            finally:
                self._running = False

        future = self._pool.submit(start)
        future.add_done_callback(lambda done: self._forget(number))
        return future, number

    async def run(self, act: Callable[[], T]) -> T:
        """The result of a call, without blocking the other requests meanwhile."""
        return await asyncio.wrap_future(self.submit(act)[0])

    def ahead_of(self, number: int) -> int:
        """How many calls are before one that waits: those that came earlier, and the one that runs."""
        with self._lock:
            return sum(other < number for other in self._waiting) + self._running

    def close(self) -> None:
        """Drops what waits; what runs is finished."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _forget(self, number: int) -> None:
        with self._lock:
            self._waiting.discard(number)


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
