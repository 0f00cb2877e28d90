"""A checkup from start to end: foretold, painted, read, judged. Interrupted at any moment, it goes on where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from conceptlens._version import package_version
from conceptlens.bench.checkup.collages import Cell, Collage, Extents, plan_collages
from conceptlens.bench.checkup.extents import extents_of
from conceptlens.bench.checkup.looking import Looker
from conceptlens.bench.checkup.page import collage_sheets, page, picture_sheet
from conceptlens.bench.checkup.painting import Studio, share_of_flat
from conceptlens.bench.checkup.plan import Plan
from conceptlens.bench.checkup.presence import there
from conceptlens.bench.checkup.verdict import Findings
from conceptlens.bench.rows import RowFile, Track, check_folder
from conceptlens.bench.runs import peak_memory
from conceptlens.bench.scorer import PACKAGES, image_seed
from conceptlens.session import Session
from conceptlens.values.errors import OutputError, one_line
from conceptlens.values.files import write_text

PICTURES, SHOWN = "pictures", 4
"""The folder of pictures in that of a run, and how many collages its page shows."""


@dataclass(frozen=True)
class Forecast:
    """What is still to do, from one painting and one reading.

    Attributes:
        pictures: to be painted, and `painting` seconds each.
        readings: to be made, one for each collage and noise level, and `reading` seconds each, all questions included.
        record_mb: what one reading keeps in memory, in MB.
        peak_mb: the most memory so far, in MB: of the GPU where there is one, else of the machine.
    """

    pictures: int
    painting: float
    readings: int
    reading: float
    record_mb: float
    peak_mb: int

    @property
    def seconds(self) -> float:
        return self.pictures * self.painting + self.readings * self.reading

    def text(self) -> str:
        """One line."""
        minutes = self.seconds / 60
        return (
            f"{self.pictures} pictures at {self.painting:.1f} s and {self.readings} readings at {self.reading:.1f} s: "
            f"about {minutes:.0f} minutes; a reading keeps {self.record_mb:,.0f} MB, the peak is {self.peak_mb:,} MB"
        )


class Checkup:
    """One run in a folder, which is open for writing inside `with`.

    Args:
        session: the model.
        plan: for this model, from `Plan.of`.
        out: folder of the run.
        command: how to repeat it.

    Raises:
        RunError: when the folder holds a run with other settings, or cannot be written.
    """

    def __init__(self, session: Session, plan: Plan, out: Path, command: str = "") -> None:
        check_folder(out)
        self.session, self.plan, self.out = session, plan, out
        self.collages = plan_collages(plan.nouns, plan.pictures, plan.limit, plan.seed)
        self._studio = Studio(session, plan, out / PICTURES)
        self._header = {"command": command, "versions": {name: package_version(name) for name in PACKAGES}}

    def __enter__(self) -> Checkup:
        self._file = RowFile(self.out, self.plan.settings(self.session), self._header)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._file.__exit__(kind, error, trace)

    @property
    def cells(self) -> list[Cell]:
        """All pictures, those of one seed together."""
        return [Cell(noun, number) for number in range(self.plan.pictures) for noun in self.plan.nouns]

    @property
    def _unpainted(self) -> list[Cell]:
        return [cell for cell in self.cells if not self._studio.file(cell).exists()]

    @property
    def _unread(self) -> list[tuple[Collage, float]]:
        every = [(collage, noise) for collage in self.collages for noise in self.plan.noises]
        return [(collage, noise) for collage, noise in every if _id(collage, noise) not in self._file.rows]

    def forecast(self) -> Forecast:
        """Paints the first picture that is missing and reads a collage of it, to say what the rest will take."""
        unread, painting = self._unread, 0.0
        if unpainted := self._unpainted:
            started = time.perf_counter()
            self._studio.picture(unpainted[0])
            painting = time.perf_counter() - started
        reading, size = 0.0, 0
        if unread:
            collage, noise = unread[0]
            stand_in = self._studio.picture((unpainted or self.cells)[0])
            extents = _halves(collage, stand_in)
            image = collage.paste(dict.fromkeys(collage.cells, stand_in), extents)
            started = time.perf_counter()
            record = self._looker.read(image, noise, 0)
            self._looker.scores(record, collage, extents)
            self._looker.standings(record)
            reading, size = time.perf_counter() - started, record.nbytes
        left = len(self._unpainted)
        return Forecast(left, painting, len(unread), reading, size / 1e6, peak_memory())

    def paint(self, track: Track = lambda rows, total: rows) -> None:
        """Paints what is missing."""
        missing = self._unpainted
        for _ in track(({"id": str(cell), "picture": self._studio.picture(cell)} for cell in missing), len(missing)):
            pass

    @cached_property
    def pictures(self) -> Mapping[Cell, Image.Image]:
        """All pictures, painted."""
        return {cell: self._studio.picture(cell) for cell in self.cells}

    @cached_property
    def extents(self) -> Extents:
        """Where in each picture its noun is."""
        return extents_of(self.pictures)

    @cached_property
    def _looker(self) -> Looker:
        side = max(self._studio.picture(self.cells[0]).size)
        return Looker(self.session, self.plan.nouns, side)

    def trouble(self) -> str | None:
        """Why these pictures can show nothing, before any is read; None where they may."""
        if share_of_flat(list(self.pictures.values())) > 0.5:
            return "most of its pictures are of one colour"
        shown = [noun for noun in self.plan.nouns if any(self.extents[c].any() for c in self.cells if c.noun == noun)]
        if 2 * len(shown) < len(self.plan.nouns):
            return (
                f"for {len(self.plan.nouns) - len(shown)} of {len(self.plan.nouns)} nouns it paints what it paints for "
                "the others"
            )
        return None

    def read(self, track: Track = lambda rows, total: rows) -> None:
        """Reads each collage at each noise level that has no row yet; none where the pictures show nothing."""
        if self.trouble() is not None:
            return
        unread = self._unread
        for row in track(self._rows(unread), len(unread)):
            self._file.append(row)

    def _rows(self, unread: Sequence[tuple[Collage, float]]) -> Iterator[dict[str, Any]]:
        for collage, noise in unread:
            started = time.perf_counter()
            record = self._looker.read(collage.paste(self.pictures, self.extents), noise, self._noise_seed(collage))
            yield {
                "id": _id(collage, noise),
                "collage": collage.number,
                "noise": noise,
                "nouns": list(collage.nouns),
                "scores": self._looker.scores(record, collage, self.extents),
                "standings": self._looker.standings(record),
                "there": there(collage, self.plan.nouns, self.extents),
                "seconds": round(time.perf_counter() - started, 3),
            }

    def findings(self) -> Findings:
        """What the rows of this plan say."""
        every = [_id(collage, noise) for collage in self.collages for noise in self.plan.noises]
        rows = [self._file.rows[name] for name in every if name in self._file.rows]
        return Findings.of(self.session, self.plan, rows, self.trouble())

    def write(self, found: Findings) -> None:
        """Writes `checkup.json` and `checkup.html` beside the rows.

        Raises:
            OutputError: when they cannot be written.
        """
        said = {**self.plan.settings(self.session), "limit": self.plan.limit, **self._header}
        sheet = picture_sheet(self.pictures, self.extents)
        html = page(found, sheet, self.examples(found), json.loads(json.dumps(said)))
        for name, text in (("checkup.json", json.dumps(found.summary(), indent=2) + "\n"), ("checkup.html", html)):
            aside = self.out / f".{name}"
            try:
                write_text(aside, text)
                aside.replace(self.out / name)
            except OSError as error:
                reason = error.strerror or one_line(error)
                raise OutputError(f"cannot write {self.out / name}: {reason}. Make room there.") from error

    def examples(self, found: Findings) -> list[tuple[str, Image.Image]]:
        """Of the first collages that show a noun, the maps in the best recipe; none where none were read."""
        if self.trouble() is not None or not found.numbers:
            return []
        chosen = [self.collages[number] for number in found.numbers[:SHOWN]]
        maps = [
            self._looker.shown(each.paste(self.pictures, self.extents), each, self._noise_seed(each), found.recipe())
            for each in chosen
        ]
        return collage_sheets(chosen, maps)

    def _noise_seed(self, collage: Collage) -> int:
        """Of the noise of all readings of a collage."""
        return image_seed(self.plan.seed, str(collage.number))


def _halves(collage: Collage, picture: Image.Image) -> Extents:
    """The left half of each picture, in place of extents that are not known yet."""
    half = np.zeros((picture.height, picture.width), bool)
    half[:, : picture.width // 2] = True
    return dict.fromkeys(collage.cells, half)


def _id(collage: Collage, noise: float) -> str:
    return f"{collage.number:04d}@{noise:g}"
