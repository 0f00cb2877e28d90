"""Ablations and sweeps: one thing varies, all else stays. Each variant is a separate run with its own rows.

Variants that need the same picture of the model share it: the image is read once, with all layers and queries, and
probed once per variant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from conceptlens.bench.datasets.base import Dataset, Sample
from conceptlens.bench.protocol import Concept
from conceptlens.bench.report import Report
from conceptlens.bench.rows import RowFile, Track, check_folder
from conceptlens.bench.runs import finish
from conceptlens.bench.scorer import RunSpec, Scorer, image_seed
from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.methods.base import Question
from conceptlens.methods.stream import StreamMethod
from conceptlens.session import Session
from conceptlens.values.errors import ConceptlensError
from conceptlens.values.recipe import RECIPE_FIELDS, REFINEMENTS, Refinement, Space
from conceptlens.values.records import ImageRecord

AXES = ("space", "attention", "layers", "noise", "samples", "concepts", "refine")
NOISES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SAMPLES = (1, 2, 4, 8)
EXTRA_CONCEPTS = (0, 1, 2, 4, 8)
MAGNETS = ("the", "a", "of", "and")
"""Words that stand for nothing, and may draw what belongs to no concept."""
COMBINATIONS: tuple[tuple[Refinement, ...], ...] = (
    ("head-weights", "joint-bilateral"),
    ("cosine", "joint-bilateral"),
    ("cosine", "head-weights", "joint-bilateral"),
    ("self-attention", "joint-bilateral"),
    ("head-weights", "layer-weights", "joint-bilateral"),
)
"""What is measured beside each refinement alone."""
SWEEP_DISTRACTORS = ("backgroundfloor", "tree", "person", "face")
"""The background words of the official sweeps over layers and time steps, where a comma is missing."""


class AblationError(ConceptlensError, ValueError):
    """An ablation is unknown or cannot be made."""


@dataclass(frozen=True)
class Variant:
    """One row of an ablation.

    Attributes:
        name: in the table.
        options: fields of `Recipe` that make it.
        extra: how many concepts are added to those asked.
        distractors: replace those of the protocol.
        magnets: words that compete and have no map.
    """

    name: str
    options: Mapping[str, Any]
    extra: int = 0
    distractors: tuple[str, ...] | None = None
    magnets: tuple[str, ...] = ()


def variants(axis: str, depth: int, *, official: bool = False) -> list[Variant]:
    """The rows of an ablation.

    Args:
        axis: one of `AXES`.
        depth: blocks of the model that are followed.
        official: the settings of the official scripts, which differ between the rows: the space table was made with one
            draw at noise 0.75; the attention table with that and no softmax, but for the last row; the sweeps without
            softmax, with `SWEEP_DISTRACTORS`, and that over layers at noise 0.76.

    Raises:
        AblationError: for an unknown axis.
    """
    if axis == "space":
        spaces: tuple[Space, ...] = ("cross", "value", "output")
        fixed: dict[str, Any] = {"noise": 0.75, "samples": 1} if official else {}
        return [
            Variant(f"{space}, {'softmax' if softmax else 'raw'}", {"space": space, "softmax": softmax, **fixed})
            for space in spaces
            for softmax in (False, True)
        ]
    if axis == "attention":
        plain: dict[str, Any] = {"noise": 0.75, "samples": 1, "softmax": False} if official else {}
        last: dict[str, Any] = {"noise": 0.5, "samples": 5} if official else {}
        return [
            Variant("neither", {"cross_attention": False, "self_attention": False, **plain}),
            Variant("self only", {"cross_attention": False, "self_attention": True, **plain}),
            Variant("cross only", {"cross_attention": True, "self_attention": False, **plain}),
            Variant("cross and self", {"cross_attention": True, "self_attention": True, **last}),
        ]
    if axis in ("layers", "noise"):
        swept: list[tuple[str, dict[str, Any]]] = (
            [(f"layer {layer}", {"layers": (layer,)}) for layer in range(depth)]
            if axis == "layers"
            else [(f"noise {noise:g}", {"noise": noise}) for noise in NOISES]
        )
        if not official:
            return [Variant(name, options) for name, options in swept]
        plain = {"softmax": False, "normalize": "linear", "samples": 1}
        more = {**plain, "noise": 0.7595} if axis == "layers" else {**plain, "layers": tuple(range(depth))}
        return [Variant(name, {**more, **options}, distractors=SWEEP_DISTRACTORS) for name, options in swept]
    if axis == "refine":
        return _refinements()
    if axis == "samples":
        return [Variant(f"{count} draws", {"samples": count}) for count in SAMPLES]
    if axis == "concepts":
        return [Variant(f"{count} more concepts", {}, extra=count) for count in EXTRA_CONCEPTS]
    raise AblationError(f"no ablation {axis!r}. Known: {', '.join(AXES)}.")


def _refinements() -> list[Variant]:
    """The plain maps first, which all others are compared with."""
    chosen: list[tuple[Refinement, ...]] = [*((name,) for name in REFINEMENTS), *COMBINATIONS]
    refined = [Variant(" + ".join(names), {"refine": names}) for names in chosen]
    return [Variant("plain", {"refine": ()}), Variant("magnets", {"refine": ()}, magnets=MAGNETS), *refined]


def ablate(
    spec: RunSpec,
    axis: str,
    out: Path,
    *,
    limit: int | None = None,
    track: Track = lambda rows, total: rows,
    command: str = "",
) -> dict[str, Report]:
    """Runs every variant of an ablation; the same call resumes where it was interrupted.

    Args:
        spec: the run that varies; its method must read a concept stream.
        axis: what varies.
        out: a folder per variant is made in it.
        limit: only the first images of the dataset.
        track: wraps the images as they are done, for a progress bar.
        command: how to repeat it, for the report.

    Returns:
        Reports by the variant's name, in the order of the table.
    """
    check_folder(out)
    data, opened = spec.open_data(), spec.open_method()
    if not isinstance(opened, StreamMethod):
        raise AblationError(f"{spec.method} has no concept stream to ablate. Use concept-attention.")
    session = opened.session
    served = session.reader.refinements
    every = variants(axis, session.depth, official=spec.protocol == "paper")
    chosen = [variant for variant in every if served.issuperset(variant.options.get("refine", ()))]
    options = spec.method_options(session.depth)
    reader = _SharedReader(session, options.get("preset"))
    scorers = {v.name: _VariantScorer(spec, _VariantMethod(session, reader, v, options), data, v) for v in chosen}
    first = next(iter(scorers.values()))
    ids = first.ids(limit)
    headers = {name: {**first.header(command), "variant": name} for name in scorers}
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(RowFile(out / _folder(name), scorer.settings, headers[name]))
            for name, scorer in scorers.items()
        }
        todo = [i for i in ids if any(i not in file.rows for file in files.values())]
        for _ in track(_rows(scorers, files, todo), len(todo)):
            pass
        return {name: Report(*finish(file, headers[name], ids)) for name, file in files.items()}


def _rows(scorers: Mapping[str, Scorer], files: Mapping[str, RowFile], ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Scores every image with every variant that lacks its row; yields the first variant's row."""
    for id_ in ids:
        for name, file in files.items():
            if id_ not in file.rows:
                file.append(scorers[name](id_))
        yield next(iter(files.values())).rows[id_]


class _SharedReader:
    """Reads an image once for all variants that can share the reading: same picture, noise, draws and seed."""

    def __init__(self, session: Session, preset: str | None) -> None:
        self._session, self._preset = session, preset
        self._key: Any = None
        self._record: ImageRecord | None = None

    def read(self, image: Image.Image, prompt: str, seed: int, options: Mapping[str, Any]) -> ImageRecord:
        reading = {k: options[k] for k in ("noise", "samples") if k in options}
        key = (image.tobytes(), prompt, seed, tuple(sorted(reading.items())))
        if self._record is None or key != self._key:
            layers = range(self._session.depth)
            space: Space = "output" if self._session.single_stream else "cross"  # which keeps the queries too
            self._record = self._session.read(
                image, prompt=prompt, seed=seed, preset=self._preset, space=space, layers=layers, refine=(), **reading
            )
            self._key = key
        return self._record


class _VariantMethod(StreamMethod):
    """A stream method whose readings are shared, with any space and concepts added."""

    name = "variant"
    summary = "one row of an ablation"
    space = "output"

    def __init__(self, session: Session, reader: _SharedReader, variant: Variant, options: Mapping[str, Any]) -> None:
        given = dict(options)
        self._preset = given.pop("preset", None)
        self._session, self._reader, self._variant = session, reader, variant
        self._options = {"space": "output", **given, **variant.options}
        self._recipe = session.recipe(self._preset, **self._options)

    def explain_all(self, questions: Sequence[Question]) -> list[ConceptMaps]:
        return [self._explain(question) for question in questions]

    def _explain(self, question: Question) -> ConceptMaps:
        record = self._reader.read(question.image, question.prompt, question.seed, self._options)
        wanted = {name: getattr(self._recipe, name) for name in RECIPE_FIELDS - {"preset"}}
        changed = {name: value for name, value in wanted.items() if value != getattr(record.recipe, name)}
        return self._session.probe(record, question.concepts, background=self._variant.magnets or False, **changed)


class _VariantScorer(Scorer):
    """A scorer that may ask for more concepts, drawn for each image from those of the dataset that it does not show."""

    def __init__(self, spec: RunSpec, method: StreamMethod, data: Dataset, variant: Variant) -> None:
        super().__init__(spec, method, data)
        self._extra, self._magnets = variant.extra, variant.magnets
        if variant.distractors is not None:
            self.rules = replace(self.rules, distractors=variant.distractors)

    @property
    def settings(self) -> dict[str, Any]:
        magnets = {"magnets": list(self._magnets)} if self._magnets else {}
        return {**super().settings, "extra_concepts": self._extra, **magnets}

    def concepts(self, sample: Sample) -> tuple[Concept, ...]:
        asked = super().concepts(sample)
        names = {concept.name for concept in asked}
        every = [Concept(name, number) for number, name in enumerate(self.data.classes)]
        absent = [concept for concept in every[int(self.data.background) :] if concept.name not in names]
        np.random.default_rng(image_seed(0, sample.id)).shuffle(absent)
        return (*asked, *absent[: self._extra])


def _folder(name: str) -> str:
    return "".join(c if c.isalnum() or c == "." else "-" for c in name).replace("--", "-")
