"""A run: method x dataset x protocol, to rows. Resumable, seeded, the same rows on every engine."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from conceptlens.bench.ray_engine import rows_in_memory, score_with_ray
from conceptlens.bench.rows import RowFile, Track, check_folder, fingerprint
from conceptlens.bench.scorer import RunSpec, Scorer


def run(  # noqa: PLR0913 - a public call: one keyword for each thing that a run may vary
    spec: RunSpec,
    out: Path | str | None = None,
    *,
    limit: int | None = None,
    engine: str = "local",
    workers: int = 1,
    batch: int = 1,
    track: Track = lambda rows, total: rows,
    command: str = "",
    scorer: Scorer | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Scores images that have no row yet, and returns what `run.json` says and the rows of all of them.

    Args:
        spec: what to run.
        out: folder of the run; rows are not stored when None. The same call resumes where it was interrupted.
        limit: only the first images of the dataset.
        engine: "local", or "ray" (see `conceptlens.bench.ray_engine`).
        workers: processes of the "ray" engine, each with its own model.
        batch: how many images the method looks at together. They are always the same ones, also in a run that goes on,
            so that rows are equal to the last digit.
        track: wraps the rows as they come, for a progress bar; gets their number too.
        command: how to repeat it, for the report.
        scorer: an open one, in place of opening the spec.

    Raises:
        RunError: when `out` holds a run with other settings, or cannot be written.
    """
    if out is not None:
        check_folder(Path(out))
    scorer = scorer or Scorer(spec)
    ids, header = scorer.ids(limit), scorer.header(command)
    if out is None:
        made = _rows(scorer, chunked(ids, batch), engine, workers)
        rows = {row["id"]: row for row in track(made, len(ids))}
        return {"recipe": fingerprint(scorer.settings), "settings": scorer.settings, **header}, [rows[i] for i in ids]
    with RowFile(Path(out), scorer.settings, header) as file:

        def missing(todo: list[str]) -> Iterator[dict[str, Any]]:
            chunks = [chunk for chunk in chunked(ids, batch) if not set(todo).isdisjoint(chunk)]
            return (row for row in _rows(scorer, chunks, engine, workers) if row["id"] in todo)

        file.fill(ids, missing, track)
        return finish(file, header, ids)


def finish(file: RowFile, header: Mapping[str, Any], ids: Sequence[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Notes what is known at the end of a run, and returns what `run.json` says and the rows of `ids`."""
    header = {**header, "peak_memory_mb": peak_memory()}
    file.note(header)
    return {"recipe": file.recipe, "settings": file.settings, **header}, [file.rows[i] for i in ids if i in file.rows]


def peak_memory() -> int:
    """The most memory this process has held, in MB: of the GPU where there is one, else of the machine."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


def chunked(ids: Sequence[str], size: int) -> list[Sequence[str]]:
    """Images in groups of a size, in their order; the last may be smaller."""
    return [ids[first : first + size] for first in range(0, len(ids), size)]


def _rows(scorer: Scorer, chunks: Sequence[Sequence[str]], engine: str, workers: int) -> Iterator[dict[str, Any]]:
    if engine == "ray":
        yield from score_with_ray(partial(Scorer, scorer.spec), chunks, workers)
        return
    with scorer.method.texts_held():
        for chunk in chunks:
            yield from rows_in_memory(scorer, chunk)
