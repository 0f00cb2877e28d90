"""Readers of models whose text reads the image: concepts are carried along, as a text of their own."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from PIL import Image

from conceptlens.families.base import Concepts, DiTAdapter
from conceptlens.families.kinds.reentry import ReentryAdapter
from conceptlens.ops.accumulate import moments
from conceptlens.readers.base import Answer, Asking, Reader, Vectors, Verb
from conceptlens.readers.call_settings import check_call
from conceptlens.readers.embedding import ConceptEmbedder
from conceptlens.readers.frames import FrameRoom
from conceptlens.readers.loading import LoadedModel, resident
from conceptlens.readers.orders import Order, Request
from conceptlens.readers.painter import Painter, run_info
from conceptlens.readers.painting import on_grid, stack_parts
from conceptlens.readers.pictures import Reading, in_batches
from conceptlens.readers.reading import read, reading_size
from conceptlens.readers.reentry import ReentryProbe
from conceptlens.readers.replay import check_recorded, replay, replay_vectors, shape_of
from conceptlens.readers.stream import ConceptProbe, Probe, joined_layers
from conceptlens.readers.text_side import encoded_once
from conceptlens.values.errors import ModelError
from conceptlens.values.provenance import Task
from conceptlens.values.recipe import REFINEMENTS, SHARP, Recipe, Refinement, check_preset
from conceptlens.values.records import EnteredLayer, ImageRecord, LayerRecord, R, StreamLayer
from conceptlens.values.words import content_words

_SKILLS: frozenset[Verb] = frozenset({"generate", "record", "read", "probe", "follow"})


class TextStreamReader(Reader[R]):
    """What both ways have in common: a pipeline with its adapter, whose hooks hand out one block after another."""

    can: ClassVar[frozenset[Verb]] = _SKILLS
    read_options: ClassVar[frozenset[str]] = frozenset({"guidance_scale", "max_sequence_length", "num_frames"})

    def __init__(self, model: LoadedModel) -> None:
        super().__init__(model.pipeline, model.model_id, model.defaults)
        self.model = model
        self.embed = ConceptEmbedder(model)

    @property
    def family(self) -> str:
        return self.model.adapter.name

    @property
    def kind(self) -> str:
        return f"a model of the family {self.family}"

    @property
    def depth(self) -> int:
        return len(self.model.adapter.blocks())

    def default_recipe(self, preset: str | None) -> Recipe:
        if preset == "paper":
            return self.model.adapter.paper_recipe(self.depth)
        usual = self.model.adapter.recipe(self.depth).override(dict(self.defaults.recipe))
        check_preset(preset)
        return usual if preset is None else replace(usual, refine=SHARP, preset=preset)

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        self.model.adapter.check(recipe)

    @abstractmethod
    def begin(self, concepts: Concepts, recipe: Recipe, keep: bool) -> Probe[R]:
        """The probe of one run; with `keep` it keeps the scores of each step and layer."""

    def order(self, request: Request) -> Order:
        concepts = request.concepts
        if concepts is None:
            concepts = content_words(request.prompt)
        return Order.of(self.model, request, concepts, self.recipe(request.preset, request.settings))

    def painter(self) -> Painter:
        return Painter(self.model, self.embed, self.begin)

    def frame_room(self, options: Mapping[str, Any]) -> FrameRoom | None:
        step = self.model.adapter.frame_step(self.pipeline)
        if step is None:
            return super().frame_room(options)
        check_call(self.pipeline, options)
        most = {**self.defaults.generate, **options}.get("num_frames")
        return FrameRoom(step, most or self.model.adapter.native_frames(self.pipeline))

    def read(
        self, image: Image.Image, prompt: str, recipe: Recipe, seed: int, options: Mapping[str, Any]
    ) -> ImageRecord:
        return self.read_all([Reading(image, prompt, seed)], recipe, options, 1)[0]

    def read_all(
        self, readings: Sequence[Reading], recipe: Recipe, options: Mapping[str, Any], batch: int
    ) -> list[ImageRecord]:
        """See `Reader.read_all`; pictures, or films, of one size and with one prompt share a forward."""
        check_call(self.pipeline, options)
        call = {**self.defaults.generate, **options}
        batch = 1 if self.model.adapter.one_picture else batch
        records: dict[int, ImageRecord] = {}
        with self.texts_held():
            for places in in_batches(readings, self._bucket, batch):
                chosen = [readings[place] for place in places]
                for place, each, layers in zip(places, chosen, read(self.model, chosen, recipe, call), strict=True):
                    grid, made_of = layers[0].call.grid, (each.image, each.prompt, self.model_id, recipe, each.seed)
                    records[place] = ImageRecord(layers, grid, *made_of, options=options, clip=each.clip)
        return [records[place] for place in range(len(readings))]

    def _bucket(self, each: Reading) -> Hashable:
        return reading_size(self.model, each.image.size), each.prompt, None if each.clip is None else len(each.clip)

    @contextmanager
    def texts_held(self) -> Iterator[None]:
        with self.embed.held(), encoded_once(self.pipeline):
            yield

    def probe(
        self,
        record: ImageRecord,
        names: tuple[str, ...],
        recipe: Recipe,
        options: Mapping[str, Any],
        keep: bool = False,
    ) -> Answer:
        return self.probe_all([record], names, Asking(recipe, options, keep))[0]

    def probe_all(self, records: Sequence[ImageRecord], names: tuple[str, ...], asking: Asking) -> list[Answer]:
        """See `Reader.probe_all`; records of one shape take each step of a stream that is written out together."""
        for record in records:
            self.layers_of(record)
            check_recorded(record, asking.recipe)
        answers: dict[int, Answer] = {}
        for places in in_batches(records, lambda each: (self.shape_of(each), each.clip is None), asking.batch):
            chosen = [records[place] for place in places]
            answers |= zip(places, self._together(chosen, names, asking), strict=True)
        return [answers[place] for place in range(len(records))]

    def shape_of(self, record: ImageRecord) -> Hashable:
        """Equal for records that can be asked together."""
        return id(record)

    def joined(self, records: Sequence[ImageRecord]) -> Iterable[R]:
        """The layers of records that can be asked together, rows of the batch behind one another."""
        (record,) = records
        return self.layers_of(record)

    def _together(self, records: Sequence[ImageRecord], names: tuple[str, ...], asking: Asking) -> list[Answer]:
        started, count, device = time.perf_counter(), len(records), self.device
        recipe, keep = asking.recipe, asking.keep
        embedded = self._embedded(records[0], names, recipe)
        probe = self.begin(embedded, recipe, keep)
        with resident(self.pipeline):
            grid = replay(self.model.adapter, probe, records[0], self.joined(records), recipe, device)
        if records[0].clip is None:  # a picture, also where a video model has read it
            grid = replace(grid, frames=None)
        parts = stack_parts(probe.scores, grid).chunk(count, dim=2) if keep else [None] * count
        task: Task = "generate" if records[0].steps else "read"
        info = run_info(self.model, device, task, embedded, started, count)
        draws = [moments(rows) for rows in on_grid(probe.scores.mean(), grid).chunk(count)]
        matches = [None] * count if probe.matches is None else probe.matches.chunk(count)
        return [
            Answer(
                own.mean,
                info,
                spread=own.spread,
                parts=None if part is None else part.mean(dim=2),
                matches=None if match is None else match.mean(dim=0),
            )
            for own, part, match in zip(draws, parts, matches, strict=True)
        ]

    def _embedded(self, record: ImageRecord, names: tuple[str, ...], recipe: Recipe) -> Concepts:
        return self.embed(names, recipe, {**self.defaults.generate, **record.options})

    def _foreign(self, layer: LayerRecord) -> str:
        if not isinstance(layer, (StreamLayer, EnteredLayer)):
            return super()._foreign(layer)
        entered = issubclass(self.layer, EnteredLayer)
        return (
            "this record was made with"
            + ("out" if entered else "")
            + " single_stream, this model opened with"
            + ("" if entered else "out")
            + " it. Open the model as it was opened for the record."
        )


_WAITING = 2**25
"""Bytes of a painting's blocks that may wait for those of further steps."""


class StreamReader(TextStreamReader[StreamLayer]):
    """A model whose text half of a block is written out: concepts need no image rows."""

    can: ClassVar[frozenset[Verb]] = frozenset({*_SKILLS, "vectors"})
    layer = StreamLayer
    refinements: ClassVar[frozenset[Refinement]] = frozenset(REFINEMENTS)

    def __init__(self, model: LoadedModel, adapter: DiTAdapter) -> None:
        super().__init__(model)
        self.adapter = adapter

    def begin(self, concepts: Concepts, recipe: Recipe, keep: bool) -> ConceptProbe:
        return ConceptProbe(self.adapter, concepts, recipe, keep=keep, waiting=_WAITING)

    def shape_of(self, record: ImageRecord) -> Hashable:
        return shape_of(record)

    def joined(self, records: Sequence[ImageRecord]) -> Iterable[StreamLayer]:
        return joined_layers(self.adapter, [self.layers_of(record) for record in records])

    @torch.no_grad()
    def vectors(self, record: ImageRecord, names: tuple[str, ...], recipe: Recipe) -> Vectors:
        check_recorded(record, recipe)
        layers = self.layers_of(record)
        with resident(self.pipeline):
            embedded = self._embedded(record, names, recipe)
            return replay_vectors(self.adapter, record, layers, embedded, recipe, self.device)


class ReentryReader(TextStreamReader[EnteredLayer]):
    """A model whose blocks are entered again, with concepts as its text."""

    instead: ClassVar[Mapping[Verb, str]] = {
        "vectors": "Vectors of concepts need a text stream that is written out; ask for maps."
    }
    layer = EnteredLayer
    refinements: ClassVar[frozenset[Refinement]] = frozenset(REFINEMENTS) - {"head-weights", "self-attention"}

    def __init__(self, model: LoadedModel, adapter: ReentryAdapter) -> None:
        super().__init__(model)
        self.adapter = adapter

    def begin(self, concepts: Concepts, recipe: Recipe, keep: bool) -> ReentryProbe:
        return ReentryProbe(self.adapter, concepts, recipe, keep=keep)


def reader_of(model: LoadedModel) -> StreamReader | ReentryReader:
    """The reader that a model takes: its own arithmetic where an adapter has it, its own blocks again otherwise."""
    adapter = model.adapter
    if isinstance(adapter, DiTAdapter):
        return StreamReader(model, adapter)
    if isinstance(adapter, ReentryAdapter):
        return ReentryReader(model, adapter)
    raise ModelError(f"{type(adapter).__name__} is neither a DiTAdapter nor a ReentryAdapter. Derive it from one.")
