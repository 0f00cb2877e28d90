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
from conceptlens.methods.base import SaliencyMethod
from conceptlens.methods.stream import StreamMethod
from conceptlens.session import load
from conceptlens.values.errors import ConceptError, ImageError, ScoreError

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
        """The method's maps of some concepts, as the protocol shows it the image."""
        return self.method.explain(
            fit_image(sample.image, self.rules),
            [concept.name for concept in concepts],
            prompt=self.rules.caption(sample, self.data.classes),
            seed=image_seed(self.spec.seed, sample.id),
        )

    def __call__(self, id_: str) -> dict[str, Any]:
        """The row of one image; a bad image gives a row with its `error`, and no counts."""
        started = time.perf_counter()
        try:
            sample = self.data.sample(id_)
            concepts = self.concepts(sample)
            maps = self.explain(sample, concepts)
            scored = score_image(
                maps.finest[: len(concepts)],
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
