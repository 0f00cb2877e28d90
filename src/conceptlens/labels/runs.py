"""A labelling run: pictures to rows, and rows to a data set. Killed at any moment, the same call goes on from there."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from conceptlens.bench.ray_engine import rows_in_memory, score_with_ray
from conceptlens.bench.rows import RowFile, Track, check_folder
from conceptlens.bench.runs import chunked
from conceptlens.labels.dataset import picture_file, replace_file, write_dataset
from conceptlens.labels.labeller import PICTURE, Labeller, Row
from conceptlens.labels.plan import LabelError, LabelSpec


@dataclass(frozen=True)
class Summary:
    """What came of a run.

    Attributes:
        pictures: labelled so far, good or not.
        kept: pictures in the data set.
        words: looked for in all pictures.
        labels: words whose mask is in the data set.
        reasons: by gate, how many words it rejected; a word can fail at several.
        bad: rows of pictures that could not be labelled, with their `error`.
    """

    pictures: int
    kept: int
    words: int
    labels: int
    reasons: dict[str, int]
    bad: tuple[Row, ...]


@dataclass(frozen=True)
class Running:
    """How a run is done; but for the last digits, nothing of this changes a row.

    Attributes:
        limit: only the first pictures.
        engine: "local", or "ray" (see `conceptlens.bench.ray_engine`).
        workers: processes of the "ray" engine, each with its own model.
        batch: how many pictures are read together; always the same ones, also in a run that goes on.
        command: how to repeat it, for the data card.
    """

    limit: int | None = None
    engine: str = "local"
    workers: int = 1
    batch: int = 1
    command: str = ""


def label(
    spec: LabelSpec,
    out: Path | str,
    running: Running = Running(),
    *,
    track: Track = lambda rows, total: rows,
    labeller: Labeller | None = None,
) -> Summary:
    """Labels pictures that have no row yet, then writes the data set of all that have one.

    Args:
        spec: what to label.
        out: folder of the data set, with the rows of the run in `rows.jsonl`.
        running: how.
        track: wraps the rows as they come, for a progress bar; gets their number too.
        labeller: an open one, in place of opening the spec.

    Raises:
        RunError: when `out` holds a run with other settings, or cannot be written.
        LabelError: when not a single picture could be labelled.
    """
    folder = Path(out)
    check_folder(folder)
    labeller = labeller or Labeller(spec)
    header = labeller.header(running.command)
    with RowFile(folder, labeller.settings, header) as file:
        chosen = spec.ids()[: running.limit]

        def missing(todo: list[str]) -> Iterator[Row]:
            chunks = [chunk for chunk in chunked(chosen, running.batch) if not set(todo).isdisjoint(chunk)]
            for row in _made(labeller, chunks, running):
                if row["id"] not in todo:
                    continue
                picture = row.pop(PICTURE, None)
                if picture is not None:  # before its row: a row in the file promises its picture
                    replace_file(folder / picture_file(row["id"]), base64.b64decode(picture))
                yield row

        file.fill(chosen, missing, track)
        rows = [file.rows[id_] for id_ in spec.ids() if id_ in file.rows]
        summary = summed(rows)
        if not any("error" not in row for row in rows):
            raise LabelError(f"none of {len(rows)} pictures could be labelled; the first: {rows[0]['error']}")
        write_dataset(folder, rows, {"settings": file.settings, **header}, summary.reasons)
        return summary


def summed(rows: Sequence[Row]) -> Summary:
    """Counts over the rows of a run."""
    bad = tuple(row for row in rows if "error" in row)
    words = [word for row in rows if "error" not in row for word in row["words"]]
    reasons = Counter(gate for word in words for gate in word["rejected"])
    kept = [row for row in rows if row.get("kept")]
    return Summary(len(rows), len(kept), len(words), sum(len(r["annotations"]) for r in kept), dict(reasons), bad)


def _made(labeller: Labeller, chunks: Sequence[Sequence[str]], running: Running) -> Iterator[Row]:
    if running.engine == "ray":
        yield from score_with_ray(partial(Labeller, labeller.spec), chunks, running.workers)
        return
    with labeller.session.reader.texts_held():
        yield from (row for chunk in chunks for row in rows_in_memory(labeller, chunk))
