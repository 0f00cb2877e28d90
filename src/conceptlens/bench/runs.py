"""A run: method x dataset x protocol, to rows. Resumable, seeded, the same rows on every engine."""

from __future__ import annotations

import hashlib
import math
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from conceptlens._version import package_version
from conceptlens.bench.datasets import dataset_named
from conceptlens.bench.datasets.base import DataError, Dataset, Sample
from conceptlens.bench.protocol import Concept, Protocol, protocol_named
from conceptlens.bench.rows import RowFile, check_folder, fingerprint
from conceptlens.bench.scoring import fit_image, score_image
from conceptlens.methods import method_named
from conceptlens.methods.base import SaliencyMethod
from conceptlens.methods.stream import StreamMethod
from conceptlens.session import load
from conceptlens.values.errors import ConceptError, ImageError, ScoreError

Track = Callable[[Iterable[dict[str, Any]], int], Iterable[dict[str, Any]]]
FLUX_DEPTH = 19
PACKAGES = ("conceptlens", "diffusers", "torch", "transformers")


@dataclass(frozen=True)
class RunSpec:
    """What to run, in plain values, so that it can travel to another process.

    Attributes:
        dataset: a dataset's name.
        method: a method's name.
        protocol: a protocol's name.
        model: hub id or folder; the method's own backbone when None.
        data: where the data is.
        device: "cuda", "cpu", ...
        seed: of the noise; each image adds its own.
        options: settings of the method, over those of the protocol.
        data_options: settings of the dataset.
    """

    dataset: str
    method: str = "concept-attention"
    protocol: str = "fixed"
    model: str | None = None
    data: str | None = None
    device: str | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    data_options: Mapping[str, Any] = field(default_factory=dict)

    def open_data(self) -> Dataset:
        """The dataset."""
        root = None if self.data is None else Path(self.data)
        return dataset_named(self.dataset).open(root, **self.data_options)

    def rules(self) -> Protocol:
        """The protocol, as it applies to the method."""
        chosen = method_named(self.method)
        streams = issubclass(chosen, StreamMethod)
        return protocol_named(self.protocol, dataset_named(self.dataset), self.method, streams=streams)

    def method_options(self, depth: int | None = None) -> dict[str, Any]:
        """Settings of the method: the protocol's, under those of `options`.

        Args:
            depth: dual-stream blocks of the model, for a method that reads a concept stream. Layers that the protocol
                fixes are those of a FLUX.1 with 19; other models keep their own.
        """
        fixed = dict(self.rules().options)
        layers = fixed.pop("flux_layers", None)
        if layers is not None and depth == FLUX_DEPTH:
            fixed["layers"] = layers
        chosen = {**fixed, **self.options}
        if depth is not None:
            chosen.pop("single_stream", None)  # of the model, not of the method
        return chosen

    def open_method(self) -> SaliencyMethod:
        """The method, with the protocol's settings under those of `options`."""
        chosen = method_named(self.method)
        if not issubclass(chosen, StreamMethod):
            return chosen.load(self.model, device=self.device, **self.method_options())
        session = load(self.model, device=self.device, single_stream=bool(self.options.get("single_stream")))
        return chosen(session, **self.method_options(session.depth))


class Scorer:
    """One image id in, one row out. Made once per process; all engines use it.

    Args:
        spec: what to run.
        method: an open one, in place of the spec's.
        data: an open one, in place of the spec's.
    """

    def __init__(self, spec: RunSpec, method: SaliencyMethod | None = None, data: Dataset | None = None) -> None:
        self.spec, self.rules = spec, spec.rules()
        self.data = data or spec.open_data()
        self.method = method or spec.open_method()

    @property
    def settings(self) -> dict[str, Any]:
        """All that a row depends on, besides the image."""
        return {
            "dataset": self.spec.dataset,
            "data_options": dict(self.spec.data_options),
            "method": self.spec.method,
            "model": self.method.model_id,
            "protocol": self.rules.to_dict(),
            "method_settings": dict(self.method.settings),
            "seed": self.spec.seed,
        }

    def told(self, command: str) -> dict[str, Any]:
        """What else to note about a run; may change between its starts."""
        return {
            "command": command,
            "background": self.data.background,
            "classes": list(self.data.classes) if self.data.task == "multi" else [],
            "device": self.spec.device or "default",
            "versions": {name: package_version(name) for name in PACKAGES},
        }

    def ids(self, limit: int | None = None) -> list[str]:
        """The first `limit` images of the dataset, or all."""
        return list(self.data.ids()[:limit])

    def concepts(self, sample: Sample) -> tuple[Concept, ...]:
        """What to ask for in one image."""
        return self.rules.concepts(sample, self.data.classes, background=self.data.background)

    def __call__(self, id_: str) -> dict[str, Any]:
        """The row of one image; a bad image gives a row with its `error`, and no counts."""
        started = time.perf_counter()
        try:
            sample = self.data.sample(id_)
            concepts = self.concepts(sample)
            maps = self.method.explain(
                fit_image(sample.image, self.rules),
                [concept.name for concept in concepts],
                prompt=self.rules.caption(sample, self.data.classes),
                seed=image_seed(self.spec.seed, id_),
            )
            scored = score_image(
                maps.scores[: len(concepts)],
                concepts,
                sample,
                len(self.data.classes),
                self.rules,
                background=self.data.background,
            )
        except (DataError, ImageError, ConceptError, ScoreError) as error:
            return {"id": id_, "error": str(error)}
        return {
            "id": id_,
            "counts": scored.counts,
            "scores": {n: None if math.isnan(v) else round(v, 6) for n, v in scored.scores.items()},
            "seconds": round(time.perf_counter() - started, 4),
        }


def image_seed(seed: int, id_: str) -> int:
    """The noise seed of one image: the same whatever the order, the engine, or the part of the data that is run."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{id_}".encode()).digest()[:4], "little")


def run(
    spec: RunSpec,
    out: Path | str | None = None,
    *,
    limit: int | None = None,
    engine: str = "local",
    workers: int = 1,
    track: Track = lambda rows, total: rows,
    command: str = "",
    scorer: Scorer | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Scores images that have no row yet, and returns what `run.json` says and the rows of all of them.

    Args:
        spec: what to run.
        out: folder of the run; the rows are not kept when None. The same call goes on where it was interrupted.
        limit: only the first images of the dataset.
        engine: "local", or "ray" (see `conceptlens.bench.ray_engine`).
        workers: processes of the "ray" engine, each with its own model.
        track: wraps the rows as they come, for a progress bar; gets their number too.
        command: what to tell about how to repeat it.
        scorer: an open one, in place of opening the spec.

    Raises:
        RunError: when `out` holds a run with other settings, or cannot be written.
    """
    if out is not None:
        check_folder(Path(out))
    scorer = scorer or Scorer(spec)
    ids, told = scorer.ids(limit), scorer.told(command)
    if out is None:
        made = {row["id"]: row for row in track(_rows(scorer, ids, engine, workers), len(ids))}
        return {"recipe": fingerprint(scorer.settings), "settings": scorer.settings, **told}, [made[i] for i in ids]
    with RowFile(Path(out), scorer.settings, told) as file:
        todo = [i for i in ids if i not in file.rows]
        for row in track(_rows(scorer, todo, engine, workers), len(todo)):
            file.append(row)
        return finish(file, told, ids)


def finish(file: RowFile, told: Mapping[str, Any], ids: Sequence[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Notes what is known at the end of a run, and returns what `run.json` says and the rows of `ids`."""
    told = {**told, "peak_memory_mb": _peak_memory()}
    file.note(told)
    return {"recipe": file.recipe, "settings": file.settings, **told}, [file.rows[i] for i in ids if i in file.rows]


def _peak_memory() -> int:
    """The most memory this process has held, in MB: of the GPU where there is one, else of the machine."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


def _rows(scorer: Scorer, ids: Sequence[str], engine: str, workers: int) -> Iterator[dict[str, Any]]:
    if engine == "ray":
        from conceptlens.bench.ray_engine import score_with_ray

        yield from score_with_ray(scorer.spec, ids, workers)
        return
    for id_ in ids:
        yield scorer(id_)
