"""The same rows from many processes or machines, on Ray Data: one open model per actor, lost actors replaced.

An actor does one batch of images at a time, with what the local engine uses (`Rows`); the driver appends the rows
as they arrive. Noise seeds depend on the image alone, so the rows do not depend on who made them, or in which order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from conceptlens.values.errors import ConceptlensError


class EngineError(ConceptlensError, RuntimeError):
    """An engine is not installed or has failed."""


@runtime_checkable
class Rows(Protocol):
    """What an actor holds: pictures in, rows out."""

    def rows(self, ids: Sequence[str], /) -> list[dict[str, Any]]:
        """The rows of pictures that are looked at together."""
        ...


def rows_in_memory(opened: Rows, ids: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of pictures that are looked at together, or in halves where memory has no room for all of them."""
    import torch

    try:
        return opened.rows(ids)
    except torch.OutOfMemoryError:
        if len(ids) == 1:
            raise
    # Out here the error is gone, and with it what its traceback held of the memory.
    middle = len(ids) // 2
    return rows_in_memory(opened, ids[:middle]) + rows_in_memory(opened, ids[middle:])


class _Actor:
    """Holds one open model; Ray makes one per worker."""

    def __init__(self, opening: Callable[[], Rows], threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._opened = opening()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import json

        # As text: Arrow would give every row the columns of all rows.
        (ids,) = batch["ids"]
        return {"row": [json.dumps(row) for row in rows_in_memory(self._opened, json.loads(str(ids)))]}


def blocks_for(chunks: int, workers: int) -> int:
    """How many blocks so many chunks of images are handed out in.

    A block costs the driver tens of milliseconds and is done anew when its worker is lost. So a block is one chunk as
    long as there are few, and at most 16.
    """
    return -(-chunks // max(1, min(16, chunks // (64 * workers))))


def score_with_ray(
    opening: Callable[[], Rows], chunks: Sequence[Sequence[str]], workers: int
) -> Iterator[dict[str, Any]]:
    """Rows of images, a chunk of them at once, in the order they are done.

    Joins the Ray cluster that `RAY_ADDRESS` names, or starts one on this machine. An actor gets a GPU where the cluster
    has any. A lost actor, or machine, is replaced and its images are scored again.

    Raises:
        EngineError: when Ray is not installed.
    """
    if not chunks:
        return
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise EngineError("the ray engine needs Ray: pip install 'conceptlens[ray]'.") from error
    import json
    import logging

    import torch

    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = 0
        resources = ray.cluster_resources()
        gpus = 1 if resources.get("GPU", 0) >= workers else 0
        # As many as here: the number of threads decides the order of sums, and so the last bits of a row.
        threads = torch.get_num_threads()
        items = [{"ids": json.dumps(list(chunk))} for chunk in chunks]
        rows = ray.data.from_items(items, override_num_blocks=blocks_for(len(items), workers)).map_batches(
            _Actor,
            fn_constructor_args=(opening, threads),
            batch_size=1,
            num_cpus=0 if gpus else min(1, resources.get("CPU", 1) / (2 * workers)),
            num_gpus=gpus,
            compute=ray.data.ActorPoolStrategy(size=workers),
            max_restarts=-1,
            max_task_retries=-1,
        )
        for row in rows.iter_rows():
            yield json.loads(row["row"])
    finally:
        if started:
            ray.shutdown()
