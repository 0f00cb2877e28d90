"""Asking a record: what was recorded bounds what can be asked."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from conceptlens.families.base import Concepts, DiTAdapter, ModelAdapter
from conceptlens.ops.accumulate import RunningMoments
from conceptlens.ops.grids import check_finite
from conceptlens.readers.base import Vectors
from conceptlens.readers.stream import ConceptStream, Probe, needs_queries
from conceptlens.values.errors import ModelError, RecipeError, shown
from conceptlens.values.recipe import Recipe, resolve_steps
from conceptlens.values.records import ImageRecord, R, StreamLayer, TokenGrid


def check_origin(record: object, model_id: str) -> None:
    """Raises a `ModelError` for a record of another model, a `RecipeError` for what is no record."""
    if not isinstance(record, ImageRecord):
        raise RecipeError(f"probe asks a record; got {shown(record)}. Make one with read or load_record.")
    if record.model_id != model_id:
        raise ModelError(
            f"this record was made by {record.model_id}, this session has {model_id}. Open that model, or read again."
        )


def check_picture(record: ImageRecord, what: str) -> None:
    """Raises a `RecipeError` for the record of a film, where only pictures can be asked for `what`."""
    if record.clip is not None:
        raise RecipeError(
            f"{what} are asked of pictures; got the record of {record.clip!r}. Read one of its frames (clip.frames[0])."
        )


def records_of(record: object, model_id: str) -> list[ImageRecord]:
    """One record, or those of a list, of this model and with one recipe.

    Raises:
        ModelError: for a record of another model.
        RecipeError: for what is no record, an empty list, or records that were made with different settings.
    """
    records: list[Any] = list(record) if isinstance(record, (list, tuple)) else [record]
    if not records:
        raise RecipeError("there are no records in this list. Give at least one.")
    for each in records:
        check_origin(each, model_id)
    first = records[0].recipe.to_dict()
    for number, each in enumerate(records):
        differing = [name for name, value in each.recipe.to_dict().items() if value != first.get(name)]
        if differing:
            raise RecipeError(
                f"the records of one list have the same settings; {differing[0]} of record {number} is "
                f"{shown(getattr(each.recipe, differing[0]))}, of record 0 "
                f"{shown(getattr(records[0].recipe, differing[0]))}. Probe them apart."
            )
    return records


def check_recorded(record: ImageRecord, recipe: Recipe) -> None:
    """Refuses a recipe that needs more than the record holds.

    Raises:
        RecipeError: for layers, steps, a space or a branch that were not recorded, or another noise level.
    """
    again = "Paint it again" if record.steps else "Read the image again"
    recorded = record.answering_layers
    missing = sorted(set(recipe.layers or ()) - recorded)
    if missing:
        raise RecipeError(
            f"layer {missing[0]} was not recorded (recorded: {', '.join(map(str, sorted(recorded)))}). "
            f"{again} with layers=."
        )
    absent = sorted(wanted_steps(record, recipe) - set(record.recorded_steps))
    if absent:
        raise RecipeError(
            f"step {absent[0]} was not recorded (recorded: {', '.join(map(str, record.recorded_steps))}). "
            f"{again} with steps=."
        )
    if needs_queries(recipe) and not any("query" in layer.tensors for layer in record.layers):
        raise RecipeError(f"this record holds no image queries. {again} with {_asking_for_queries(recipe)}.")
    if recipe.branch != record.recipe.branch:
        raise RecipeError(
            f"this record is of the {record.recipe.branch} branch; got branch={recipe.branch!r}. "
            "Paint it again with that branch."
        )
    if replace(recipe, noise=record.recipe.noise, samples=record.recipe.samples) != recipe:
        raise RecipeError("noise and samples are fixed when an image is read. Read the image again.")


def _asking_for_queries(recipe: Recipe) -> str:
    """The settings with which image queries are recorded."""
    if "self-attention" in recipe.refine:
        return "refine='self-attention'"
    if recipe.space != "cross":
        return f"image_vectors={recipe.image_vectors!r}"
    return f"space='cross', cross_pair={recipe.cross_pair!r}"


def wanted_steps(record: ImageRecord, recipe: Recipe) -> frozenset[int]:
    """The steps of a painted record that a recipe averages; an image that was read has one call."""
    return resolve_steps(recipe.steps, record.steps) if record.steps else frozenset(record.recorded_steps)


@contextmanager
def in_its_precision(adapter: ModelAdapter, record: ImageRecord) -> Iterator[None]:
    """Inside it a record is asked.

    Raises:
        ModelError: when that fails and the model has another dtype than the record.
    """
    try:
        yield
    except RuntimeError as error:
        first = next(iter(record.layers[0].tensors.values()))
        recorded, now = (str(part.dtype).removeprefix("torch.") for part in (first, adapter.transformer))
        if recorded == now:
            raise
        raise ModelError(
            f"this record holds {recorded}, the model is in {now}. Open it with dtype=torch.{recorded}, or make the "
            "record again."
        ) from error


def shape_of(record: ImageRecord) -> Hashable:
    """Equal for records whose concept streams can run together: of one grid, with the same tensors of one size."""
    layers = []
    for layer in record.layers:
        given = {**layer.tensors, **layer.call.arguments}
        tensors = tuple((name, tensor.shape, tensor.dtype, tensor.device) for name, tensor in given.items())
        layers.append((layer.layer, layer.call.step, layer.call.grid, layer.call.references, tensors))
    return record.steps, repr(record.options), tuple(layers)


@torch.no_grad()
def replay(
    adapter: ModelAdapter[R],
    probe: Probe[R],
    record: ImageRecord,
    layers: Iterable[R],
    recipe: Recipe,
    device: torch.device,
) -> TokenGrid:
    """Streams concepts through a record, with the arithmetic of the live run: equal bits on equal devices.

    Args:
        adapter: the family.
        probe: of the concepts; it keeps their scores.
        record: whose steps count.
        layers: of the record, or of several like it.
        recipe: with concrete layers.
        device: of the model.

    Returns:
        The patch grid.

    Raises:
        ModelError: for a record that lacks what the family needs, or is in another precision.
    """
    assert recipe.layers is not None
    blocks, steps = adapter.blocks(), wanted_steps(record, recipe)
    try:
        with in_its_precision(adapter, record):
            for layer in layers:
                if layer.layer <= recipe.layers[-1] and layer.call.step in steps:
                    probe(blocks[layer.layer], layer.to(device))
            probe.finish()
    except KeyError as error:
        raise ModelError(f"this record lacks {error}, which {adapter.name} needs. Read the image again.") from error
    assert probe.grid is not None
    return probe.grid


def replay_vectors(
    adapter: DiTAdapter,
    record: ImageRecord,
    layers: Sequence[StreamLayer],
    concepts: Concepts,
    recipe: Recipe,
    device: torch.device,
) -> Vectors:
    """By wanted layer the output vectors of concepts and patches: means over noise draws, or over the wanted steps."""
    assert recipe.layers is not None
    stream = ConceptStream(adapter, concepts, recipe, last=recipe.layers[-1])
    blocks, steps, extra = adapter.blocks(), wanted_steps(record, recipe), concepts.extra + adapter.leading_rows
    sides = {layer: (RunningMoments(), RunningMoments()) for layer in recipe.layers}
    for kept in layers:
        if kept.layer > recipe.layers[-1] or kept.call.step not in steps:
            continue
        layer = kept.to(device)
        with in_its_precision(adapter, record):
            concept_rows = stream.step(blocks[layer.layer], layer).out[:, extra:]
        if layer.layer in sides:
            image_rows = layer.part("out")[:, : layer.call.grid.tokens]
            for side, rows in zip(sides[layer.layer], (concept_rows, image_rows), strict=True):
                for row in rows.float().expand(len(image_rows), -1, -1):
                    side.add(row)
    return {layer: (check_finite(concept.mean), check_finite(patch.mean)) for layer, (concept, patch) in sides.items()}
