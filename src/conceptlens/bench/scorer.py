"""One image in, one row out: what is run, in plain values, and the open method and data set that score an image."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from conceptlens._version import package_version
from conceptlens.bench.datasets import dataset_named
from conceptlens.bench.datasets.base import DataError, Dataset, Sample
from conceptlens.bench.protocol import Concept, Protocol, protocol_named
from conceptlens.bench.scoring import fit_image, score_image
from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.methods import method_named
from conceptlens.methods.base import Question, SaliencyMethod
from conceptlens.methods.stream import StreamMethod
from conceptlens.session import load
from conceptlens.values.errors import ConceptError, ImageError, ScoreError

FLUX_DEPTH = 19
_BAD = (DataError, ImageError, ConceptError, ScoreError)
"""What an image may do to its own row; anything else ends the run."""
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
        if self.data.as_read and spec.protocol == "fixed":
            self.rules = replace(self.rules, distractors=self.method.background)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything a row depends on, apart from the image."""
        return {
            "dataset": self.spec.dataset,
            "data_options": dict(self.spec.data_options),
            "method": self.spec.method,
            "model": self.method.model_id,
            "protocol": self.rules.to_dict(),
            "method_settings": dict(self.method.settings),
            "seed": self.spec.seed,
        }

    def header(self, command: str) -> dict[str, Any]:
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

    def explain(self, sample: Sample, concepts: Sequence[Concept]) -> ConceptMaps:
        """The method's maps of some concepts in one image, as the protocol shows it the image."""
        return self.explain_all([(sample, concepts)])[0]

    def explain_all(self, asked: Sequence[tuple[Sample, Sequence[Concept]]]) -> list[ConceptMaps]:
        """The same for each of several images, together where the method can."""
        return self.method.explain_all(
            [
                Question(
                    fit_image(sample.image, self.rules),
                    tuple(concept.name for concept in concepts),
                    self.rules.caption(sample, self.data.classes),
                    image_seed(self.spec.seed, sample.id),
                )
                for sample, concepts in asked
            ]
        )

    def __call__(self, id_: str) -> dict[str, Any]:
        """The row of one image; a bad image gives a row with its `error`, and no counts."""
        return self.rows([id_])[0]

    def rows(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of images that the method looks at together."""
        started = time.perf_counter()
        asked: dict[str, tuple[Sample, Sequence[Concept]]] = {}
        rows: dict[str, dict[str, Any]] = {}
        for id_ in ids:
            try:
                sample = self.data.sample(id_)
                asked[id_] = sample, self.concepts(sample)
            except _BAD as error:
                rows[id_] = {"id": id_, "error": str(error)}
        try:
            found = self.explain_all(list(asked.values())) if asked else []
            for (id_, (sample, concepts)), maps in zip(asked.items(), found, strict=True):
                rows[id_] = self._row(sample, concepts, maps)
        except _BAD as error:
            if len(ids) > 1:  # one of them is bad; the others are as good as alone
                return [self(id_) for id_ in ids]
            rows[ids[0]] = {"id": ids[0], "error": str(error)}
        seconds = round((time.perf_counter() - started) / len(ids), 4)
        return [rows[id_] if "error" in rows[id_] else {**rows[id_], "seconds": seconds} for id_ in ids]

    def _row(self, sample: Sample, concepts: Sequence[Concept], maps: ConceptMaps) -> dict[str, Any]:
        classes, background = len(self.data.classes), self.data.background
        found = maps.finest[: len(concepts)]
        scored = score_image(found, concepts, sample, classes, self.rules, background=background)
        scores = {n: None if math.isnan(v) else round(v, 6) for n, v in scored.scores.items()}
        return {"id": sample.id, "counts": scored.counts, "scores": scores}


def image_seed(seed: int, id_: str) -> int:
    """The noise seed of one image: the same whatever the order, the engine, or the part of the data that is run."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{id_}".encode()).digest()[:4], "little")
