"""A run: films to rows. One row per film; resumable, seeded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from conceptlens._version import package_version
from conceptlens.bench.films.cases import FilmCase, case_id, film_case
from conceptlens.bench.films.measuring import (
    match_hits,
    motion_scores,
    motion_words,
    object_scores,
    segmentation_scores,
    tracking_scores,
)
from conceptlens.bench.rows import RowFile, Track, check_folder
from conceptlens.bench.scorer import image_seed
from conceptlens.maps.pictures import contact_sheet
from conceptlens.maps.video_maps import VideoMaps
from conceptlens.session import Session
from conceptlens.values.clips import Clip
from conceptlens.values.errors import ConceptlensError
from conceptlens.values.recipe import RECIPE_FIELDS
from conceptlens.values.records import ImageRecord

METHODS: Mapping[str, Mapping[str, Any]] = {
    "output": {"space": "output", "softmax": True},
    "output, raw": {"space": "output", "softmax": False},
    "cross attention": {"space": "cross", "softmax": True},
    "value similarity": {"space": "value", "softmax": True},
}
"""Fields of the recipe that make each method; all read the film as a whole."""
ALONE = "output, frames alone"
"""Each frame read as a picture."""
NOISES = (0.1, 0.3, 0.5, 0.7, 0.9)
EXAMPLES = 4
"""Films of which pictures of the tracks are saved."""
PACKAGES = ("conceptlens", "diffusers", "torch")


class FilmsError(ConceptlensError, ValueError):
    """A model cannot be measured on films."""


@dataclass(frozen=True)
class FilmsSpec:
    """What is run.

    Attributes:
        limit: how many films.
        seed: of the noise; each film adds its own.
        noises: levels at which each film is read, beside the model's own.
        layers: whether each layer is measured by itself.
        match_layers: whose attention between frames links tracks; those of the recipe when empty.
    """

    limit: int = 60
    seed: int = 0
    noises: Sequence[float] = NOISES
    layers: bool = True
    match_layers: Sequence[int] = ()

    def settings(self, session: Session) -> dict[str, Any]:
        """All that rows depend on, but the film, as plain JSON values."""
        return {
            "benchmark": "films",
            "model": session.model_id,
            "recipe": session.recipe().to_dict(),
            "seed": self.seed,
            "noises": list(self.noises),
            "layers": self.layers,
            "match_layers": list(self.match_layers),
        }


def run(
    session: Session,
    spec: FilmsSpec,
    out: Path,
    *,
    track: Track = lambda rows, total: rows,
    command: str = "",
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measures the films that have no row in `out` yet; what `run.json` says, and the rows of all.

    Args:
        session: a video model that can be read.
        spec: what to run.
        out: folder of the rows and of pictures of the first tracks; the same call resumes where it was interrupted.
        track: wraps the rows as they come, for a progress bar; gets their number too.
        command: how to repeat it.

    Raises:
        FilmsError: for a model that reads pictures alone.
        RecipeError: for one whose queries cannot be recorded, or layers that it does not have.
        RunError: when `out` holds a run with other settings, or cannot be written.
    """
    check_folder(out)
    session.require("read")
    if session.reader.frame_room({}) is None:
        raise FilmsError(f"films are read by video models; got {session.model_id}, which reads pictures. Name another.")
    linking: dict[str, Any] = {"layers": tuple(spec.match_layers)} if spec.match_layers else {}
    session.recipe(space="cross", **linking).resolve(session.depth)  # refused where there are no queries, or layers
    header = {"command": command, "versions": {name: package_version(name) for name in PACKAGES}}
    with RowFile(out, spec.settings(session), header) as file:
        numbers = {case_id(number): number for number in range(spec.limit)}
        measured = _Measured(session, spec, out)
        with session.reader.texts_held():
            rows = file.fill([*numbers], lambda todo: (measured.row(film_case(numbers[id_])) for id_ in todo), track)
        return {"settings": file.settings, **header}, rows


class _Measured:
    """The measurement of one film after another, on one model."""

    def __init__(self, session: Session, spec: FilmsSpec, out: Path) -> None:
        self._session, self._spec, self._out = session, spec, out
        self._recipe = session.recipe()

    def row(self, case: FilmCase) -> dict[str, Any]:
        """The figures of one film, of those frames that the model takes."""
        started, seed = time.perf_counter(), image_seed(self._spec.seed, case.id)
        record = self._read(case.film.clip, seed, self._recipe.noise)
        clip = record.clip
        assert clip is not None
        case = case.of_frames(clip.numbers)
        film = case.film
        maps = self._asked(record, case, METHODS["output"])
        if self._spec.match_layers:
            linking = self._asked(record, case, {"layers": tuple(self._spec.match_layers)})
            maps = replace(maps, matches=linking.matches)
        found = {name: self._asked(record, case, options).segmentation() for name, options in METHODS.items()}
        found[ALONE] = self._alone(clip.frames, case, seed)
        methods = {name: segmentation_scores(labels, film) for name, labels in found.items()}
        if case.number < EXAMPLES:
            self._show(maps, case)
        return {
            "id": case.id,
            "seed": film.seed,
            "caption": film.caption,
            "pair": case.pair,
            "scores": {"iou": methods["output"]["miou"]},
            "methods": methods,
            "objects": object_scores(found["output"], film),
            "motions": dict(self._motions(record, case)),
            "tracks": tracking_scores(maps, film, case.nouns),
            "layers": dict(self._layers(record, case)),
            "noises": dict(self._noises(clip, case, seed)),
            "seconds": round(time.perf_counter() - started, 2),
        }

    def _read(self, clip: Clip, seed: int, noise: float) -> ImageRecord:
        """A reading with all layers, and in a space that keeps the queries too."""
        layers = range(self._session.depth)
        wanted = {"noise": noise, "space": "cross", "layers": layers, "refine": (), "num_frames": len(clip)}
        return self._session.read(clip, seed=seed, **wanted)

    def _asked(
        self, record: ImageRecord, case: FilmCase, options: Mapping[str, Any], concepts: Sequence[str] = ()
    ) -> VideoMaps:
        """Maps of the film's concepts, or of others."""
        wanted = self._session.recipe(**options)
        differing = [name for name in RECIPE_FIELDS if getattr(wanted, name) != getattr(record.recipe, name)]
        changed = {name: getattr(wanted, name) for name in differing if name not in ("noise", "preset")}
        maps: Any = self._session.probe(record, concepts or case.film.concepts, background=False, **changed)
        return maps

    def _alone(self, frames: Sequence[Image.Image], case: FilmCase, seed: int) -> np.ndarray:
        records = self._session.read(list(frames), seed=seed, batch=len(frames))
        maps = self._session.probe(records, case.film.concepts, background=False, batch=len(frames))
        return np.stack([one.segmentation() for one in maps])

    def _motions(self, record: ImageRecord, case: FilmCase) -> Iterator[tuple[str, dict[str, float]]]:
        for word, which in motion_words(case.film).items():
            maps = self._asked(record, case, METHODS["output, raw"], concepts=(word,))
            yield word, motion_scores(maps, case.film, which)

    def _layers(self, record: ImageRecord, case: FilmCase) -> Iterator[tuple[str, dict[str, Any]]]:
        for layer in range(self._session.depth) if self._spec.layers else ():
            maps = self._asked(record, case, {"layers": (layer,)})
            scores = segmentation_scores(maps.segmentation(), case.film)
            yield str(layer), {"miou": scores["miou"], **match_hits(maps, case.film)}

    def _noises(self, clip: Clip, case: FilmCase, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
        for noise in self._spec.noises:
            maps = self._asked(self._read(clip, seed, noise), case, {"noise": noise})
            scores = segmentation_scores(maps.segmentation(), case.film)
            yield f"{noise:g}", {"miou": scores["miou"], **match_hits(maps, case.film)}

    def _show(self, maps: VideoMaps, case: FilmCase) -> None:
        """Frames of a film with its tracks, by matches and by overlap alone."""
        every = range(0, len(maps), 2)
        tiles = []
        for link in ("match", "overlap"):
            sheets = maps.tracks(*case.nouns, link=link).outlined()
            tiles += [(f"{link}, frame {frame}", sheets[frame]) for frame in every]
        contact_sheet(tiles, columns=len(every)).save(self._out / f"tracks-{case.id}.png")
