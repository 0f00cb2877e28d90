"""The concept stream: one function, `step`, that generating, reading and replaying all call."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic

import torch
from jaxtyping import Float
from torch import Tensor

from conceptlens.families.base import Concepts, DiTAdapter, Projection
from conceptlens.ops.accumulate import ScoreAccumulator
from conceptlens.ops.attention import concept_attention, image_attention
from conceptlens.ops.propagation import propagate
from conceptlens.ops.spaces import (
    accumulator,
    cross_similarity,
    normalize_concepts,
    output_similarity,
    scores_of,
    vector_similarity,
)
from conceptlens.ops.tracks import frame_matches
from conceptlens.values.models import Module
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import CallRecord, R, StreamLayer, TokenGrid


@dataclass(frozen=True)
class StepVectors:
    """The concept side of one block, before the output projection."""

    out: Float[Tensor, "batch concept dim"]
    projection: Projection


class ConceptStream:
    """Carries concepts through the dual-stream blocks of one transformer call after another.

    Each call starts anew from the embedded concepts; within a call the blocks must come in order. The image side of
    a block is read from its `StreamLayer`, so the stream cannot tell a running model from a recorded one.

    Args:
        adapter: the family.
        concepts: from `adapter.embed`.
        recipe: the settings of the attention.
        last: the block that no other follows, so that its residual update is left out; None to make all of them.
    """

    def __init__(self, adapter: DiTAdapter, concepts: Concepts, recipe: Recipe, *, last: int | None = None) -> None:
        self._adapter, self._concepts, self._recipe, self._last = adapter, concepts, recipe, last
        self._hidden: Tensor | None = None
        self._conditioning: Any = None

    def step(self, block: Module, record: StreamLayer) -> StepVectors:
        """One block: attention of the concepts over [concepts; image], then the text-side residual update."""
        if record.layer == 0:
            self._hidden, self._conditioning = self._adapter.begin(self._concepts, record.call)
        assert self._hidden is not None, "blocks must come in order"
        projection = self._adapter.project(block, self._hidden, self._conditioning)
        dtype = record.value.dtype
        out = concept_attention(
            projection.query.to(dtype),
            projection.key.to(dtype),
            projection.value.to(dtype),
            record.key,
            record.value,
            cross=self._recipe.cross_attention,
            self_=self._recipe.self_attention,
            isolate=self._recipe.isolate,
        )
        if record.layer != self._last:
            self._hidden = self._adapter.advance(block, self._hidden, out, projection.modulation)
        return StepVectors(out, projection)


class Probe(ABC, Generic[R]):
    """Is handed one finished block after another, live or recorded, and keeps the running mean of the scores.

    Attributes:
        scores: of the concepts, reference images included.
        grid: of the output image; None before the first wanted block.
        references: the grids of the reference images.
        matched: of a film whose queries are recorded, matches between its frames, (gap, frame, cell) as one axis.
    """

    def __init__(self, scores: ScoreAccumulator) -> None:
        self.scores = scores
        self.matched = ScoreAccumulator()
        self.grid: TokenGrid | None = None
        self.references: tuple[TokenGrid, ...] = ()

    @property
    def matches(self) -> Float[Tensor, "batch gap frame cell cell"] | None:
        """The mean of the matches between frames (`conceptlens.ops.tracks`), float32 on the CPU; None without any."""
        if not self.matched.count:
            return None
        assert self.grid is not None
        assert self.grid.frames is not None
        mean = self.matched.mean().float().cpu()
        return mean.unflatten(1, (-1, self.grid.frames, mean.shape[-1]))

    @abstractmethod
    def __call__(self, block: Module, record: R) -> None:
        """Takes the record of one block; within a call they come in order."""

    def finish(self) -> None:
        """Takes what still waits; to be called after the last block, while the model is where it ran."""


class ConceptProbe(Probe[StreamLayer]):
    """Streams concepts through blocks and keeps the running mean of their scores, reference images included.

    A small model spends more time on launching the operations of a concept stream than in them. So its blocks may wait
    for those of further calls, and be taken together, calls behind one another as rows of a batch.

    Args:
        adapter: the family.
        concepts: from `adapter.embed`.
        recipe: with concrete `layers`.
        keep: also keep the scores of each step and layer.
        waiting: bytes of blocks that may wait, on the CPU alone: elsewhere weights may be gone again when a call is
            over. A call with more bytes never waits. Needs `finish`.
    """

    def __init__(
        self, adapter: DiTAdapter, concepts: Concepts, recipe: Recipe, *, keep: bool = False, waiting: int = 0
    ) -> None:
        assert recipe.layers is not None
        super().__init__(accumulator(recipe, keep=keep))
        self._last = recipe.layers[-1]
        self._stream = ConceptStream(adapter, concepts, recipe, last=self._last)
        self._adapter = adapter
        self._recipe, self._extra = recipe, concepts.extra + adapter.leading_rows
        self._wanted = frozenset(recipe.layers)
        self._room = waiting
        self._calls: list[list[tuple[Module, StreamLayer]]] = []

    def __call__(self, block: Module, record: StreamLayer) -> None:
        if record.layer in self._wanted:
            self.grid, self.references = record.call.grid, record.call.references
        if record.layer == 0:
            if self._most(record) * (len(self._calls) + 1) > self._room:
                self.finish()
            if self._most(record) <= self._room:
                self._calls.append([])
        if self._calls:
            self._calls[-1].append((block, record))
        else:
            self._take(block, record, [record])

    def finish(self) -> None:
        calls, self._calls = self._calls, []
        if not calls:
            return
        joined = joined_layers(self._adapter, [[record for _, record in call] for call in calls])
        for blocks, record in zip(zip(*calls, strict=True), joined, strict=True):
            self._take(blocks[0][0], record, [own for _, own in blocks])

    def _most(self, record: StreamLayer) -> float:
        """Bytes of a call's blocks, if each holds what this one does and an output besides; infinite on a device."""
        if record.key.device.type != "cpu":
            return math.inf
        return (record.nbytes + record.value.nbytes) * (self._last + 1)

    def _take(self, block: Module, record: StreamLayer, parts: Sequence[StreamLayer]) -> None:
        """A block, whose rows are those of `parts`, behind one another."""
        vectors = self._stream.step(block, record)
        if record.layer in self._wanted:
            scores = score(self._adapter, self._recipe, vectors, record, self._extra).chunk(len(parts))
            for part, own in zip(parts, scores, strict=True):
                self.scores.add(part.call.step, record.layer, own)
            if record.query is not None and (record.call.grid.frames or 1) > 1:
                matches = match_frames(self._adapter, record).flatten(1, 3).chunk(len(parts))
                for part, own in zip(parts, matches, strict=True):
                    self.matched.add(part.call.step, record.layer, own)


def joined_layers(adapter: DiTAdapter, several: Sequence[Sequence[StreamLayer]]) -> Iterator[StreamLayer]:
    """The layers of records, or of calls, of one shape, rows of the batch behind one another.

    One layer at a time, to spare memory.
    """
    if len(several) == 1:
        yield from several[0]
        return
    calls: dict[int, CallRecord] = {}
    for layers in zip(*several, strict=True):
        step, rows = layers[0].call.step, layers[0].batch
        if step not in calls:
            calls[step] = adapter.joined_call([layer.call for layer in layers], rows)
        tensors = {name: torch.cat([layer.part(name) for layer in layers]) for name in layers[0].tensors}
        yield replace(layers[0], call=calls[step], **tensors)


def score(
    adapter: DiTAdapter, recipe: Recipe, vectors: StepVectors, record: StreamLayer, extra: int = 0
) -> Float[Tensor, "batch concept image"]:
    """Scores of one block in the recipe's space; the first `extra` rows of the concept stream are dropped."""
    side = vectors.projection
    if recipe.space == "cross":
        concept, image = cross_sides(adapter, recipe, side, record)
        concept = normalize_concepts(concept[:, :, extra:], recipe.normalize)
        raw = cross_similarity(concept, image, recipe.cross_heads)
    elif recipe.space == "value":
        concept, image = side.value.transpose(1, 2).flatten(2), record.value.transpose(1, 2).flatten(2)
        raw = vector_similarity(normalize_concepts(concept[:, extra:], recipe.normalize), image)
    else:
        image = record.part("out")
        if recipe.image_vectors == "concept-pass":
            query = adapter.rotate(record.part("query"), record.call)
            image = image_attention(query, record.key, record.value, side.key, side.value)
        raw = output_similarity(vectors.out[:, extra:], image, recipe, record.key.shape[1])
    scores = scores_of(raw, recipe)
    if "self-attention" in recipe.refine:
        scores = propagate(scores, adapter.rotate(record.part("query"), record.call), record.key)
    return scores


def match_frames(adapter: DiTAdapter, record: StreamLayer) -> Float[Tensor, "batch gap frame cell cell"]:
    """Where each cell of a film's frames is in the next ones, by one block; its queries must be recorded."""
    grid = record.call.grid
    query, key = (part[:, :, : grid.tokens] for part in (adapter.rotate(record.part("query"), record.call), record.key))
    return frame_matches(query, key, (grid.frames or 1, grid.rows, grid.cols))


def cross_sides(
    adapter: DiTAdapter, recipe: Recipe, side: Projection, record: StreamLayer
) -> tuple[Float[Tensor, "batch head concept head_dim"], Float[Tensor, "batch head image head_dim"]]:
    """What the cross space compares: queries or keys of the concepts, and of the image tokens."""
    of_concepts, _, of_image = recipe.cross_pair.partition("-")
    if recipe.cross_rotated == "neither" and side.unrotated is not None:
        side = side.unrotated
    concept = side.query if of_concepts == "query" else side.key
    rotated = recipe.cross_rotated == "both"
    if of_image == "query":  # recorded before rotation, keys after it
        query = record.part("query")
        return concept, adapter.rotate(query, record.call) if rotated else query
    return concept, record.key if rotated else adapter.unrotate(record.key, record.call)


def needs_queries(recipe: Recipe) -> bool:
    """Whether scores of this recipe need image queries."""
    crossed = recipe.space == "cross" and recipe.cross_pair != "query-key"
    return crossed or recipe.image_vectors == "concept-pass" or "self-attention" in recipe.refine
