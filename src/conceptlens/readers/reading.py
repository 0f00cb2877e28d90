"""Existing pictures: pixels to latents, noise, and one partial forward."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from conceptlens.families.base import ModelAdapter
from conceptlens.families.kinds.calls import named_arguments
from conceptlens.readers.loading import LoadedModel
from conceptlens.readers.pictures import Reading
from conceptlens.readers.stream import needs_queries
from conceptlens.readers.text_side import text_encoders
from conceptlens.values.early_exit import StopForward
from conceptlens.values.errors import ModelError, RecipeError, one_line
from conceptlens.values.models import Model, Module, Pipeline
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import CallRecord, LayerRecord, R
from conceptlens.watch.recorder import Recorder
from conceptlens.watch.surroundings import execution_device


def working_size(size: tuple[int, int], area: int, multiple: int, *, within: bool = False) -> tuple[int, int]:
    """(width, height) near the model's own `area` in pixels, same aspect, sides rounded to `multiple`.

    With `within` no larger than the area, whatever the aspect.
    """
    width, height = size
    scale = math.sqrt(area / (width * height)) / multiple
    counts = (int(side * scale + (1e-6 if within else 0.5)) for side in (width, height))
    return tuple(max(1, count) * multiple for count in counts)  # type: ignore[return-value]


def reading_size(model: LoadedModel, size: tuple[int, int]) -> tuple[int, int]:
    """The (width, height) at which a model reads a picture of a (width, height)."""
    adapter = model.adapter
    return working_size(size, _area(model), adapter.side_multiple(model.pipeline), within=adapter.one_area)


def encode_pictures(
    pipeline: Pipeline, adapter: ModelAdapter, readings: Sequence[Reading], size: tuple[int, int], samples: int
) -> tuple[Float[Tensor, "batch channel ... cols"], Float[Tensor, "batch channel ... cols"]]:
    """Clean latents and noise in the transformer's dtype, `samples` rows for each picture, one picture after another.

    Each picture's seed draws its noise on the CPU, so that it is the same on every device and in every batch; of a film
    it draws that of all latent frames at once. The VAE gives its mode, not a sample.
    """
    device, vae = execution_device(pipeline), pipeline.vae
    pixels = [reading.pixels(pipeline, size).to(device=device, dtype=vae.dtype) for reading in readings]
    latents = adapter.encode(pipeline, torch.cat(pixels))
    dtype = pipeline.transformer.dtype
    drawn = []
    for reading in readings:
        generator = torch.Generator("cpu").manual_seed(reading.seed)
        shape = (samples, *latents.shape[1:])
        drawn.append(torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu"))
    clean = latents.to(dtype).repeat_interleave(samples, dim=0)
    return clean, torch.cat(drawn).to(device=device, dtype=dtype)


@torch.no_grad()
def read(
    model: LoadedModel, readings: Sequence[Reading], recipe: Recipe, options: Mapping[str, Any]
) -> list[tuple[LayerRecord, ...]]:
    """One forward of noised pictures that ends after the last wanted block.

    Args:
        model: that reads.
        readings: pictures, or films of equally many frames, of one working size and with one prompt.
        recipe: with concrete layers.
        options: keywords of the pipeline's call.

    Returns:
        For each picture the records of all blocks up to the last wanted one (outputs of the wanted ones only).

    Raises:
        RecipeError: for the branch of a negative prompt.
        ModelError: for a model that takes more than a picture and a text.
    """
    assert recipe.layers is not None
    if recipe.branch != "prompt":
        raise RecipeError("branch='negative' is for generate: a reading has one pass, its prompt's. Drop branch.")
    pipeline, adapter = model.pipeline, model.adapter
    try:
        with _enough_memory():
            size = reading_size(model, readings[0].image.size)
            clean, noise = encode_pictures(pipeline, adapter, readings, size, recipe.samples)
            noised = adapter.add_noise(pipeline, clean.float(), noise.float(), recipe.noise).to(noise.dtype)
            with text_encoders(pipeline):
                arguments = adapter.prepare(pipeline, noised, readings[0].prompt, recipe.noise, options)
            with _picture_alone(adapter.transformer):
                return record_pictures(adapter, arguments, recipe, len(readings))
    finally:
        pipeline.maybe_free_model_hooks()


def _area(model: LoadedModel) -> int:
    """In pixels, that of the pictures the model is at home with."""
    given = model.defaults.generate
    if "width" in given and "height" in given:
        return given["width"] * given["height"]
    return model.adapter.native_area(model.pipeline)


@contextmanager
def _enough_memory() -> Iterator[None]:
    """Raises a `ModelError` where the memory is too small."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{one_line(error)}. Use offload=True, a smaller batch, fewer samples, or a smaller model."
        ) from error


@contextmanager
def _picture_alone(transformer: Model) -> Iterator[None]:
    """Inside it a transformer is called with a picture and a text.

    Raises:
        ModelError: when it cannot be called so.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError) as error:
        remedy = (
            "It may be made for inpainting, control, editing or image to video: use generate, or another checkpoint."
        )
        if getattr(transformer, "encoder_hid_proj", None) is not None:
            remedy = (
                "An IP-Adapter is loaded, for whose picture a reading has no place: call unload_ip_adapter() first."
            )
        raise ModelError(
            f"{type(transformer).__name__} does not take a picture and a text alone: {one_line(error)}. {remedy}"
        ) from error


def record_call(adapter: ModelAdapter[R], arguments: Mapping[str, Any], recipe: Recipe) -> tuple[R, ...]:
    """Runs one transformer call up to the last wanted block and returns what its blocks left behind."""
    return record_pictures(adapter, arguments, recipe, 1)[0]


def record_pictures(
    adapter: ModelAdapter[R], arguments: Mapping[str, Any], recipe: Recipe, pictures: int
) -> list[tuple[R, ...]]:
    """Runs one transformer call up to the last wanted block and returns what its blocks left behind of each picture.

    Each of several pictures has equally many rows of the call, one picture after another, and memory of its own, so
    that one record does not keep those of the whole batch alive.
    """
    assert recipe.layers is not None
    kept: list[list[R]] = [[] for _ in range(pictures)]
    calls: list[CallRecord] = []

    def keep(block: Module, record: R) -> None:
        if pictures > 1 and not calls:
            calls.extend(_calls_of(adapter, arguments, record, pictures))
        for own, part in zip(kept, _parts_of(record, calls), strict=True):
            own.append(part)

    recorder = Recorder(
        adapter,
        keep,
        last=recipe.layers[-1],
        outputs=frozenset(recipe.layers),
        queries=needs_queries(recipe),
        stop=True,
    )
    with recorder, suppress(StopForward):
        adapter.transformer(**arguments)
    if len(kept[0]) != recipe.layers[-1] + 1:
        raise ModelError(f"{len(kept[0])} of {recipe.layers[-1] + 1} blocks were seen; the record would be partial.")
    return [tuple(own) for own in kept]


def _calls_of(adapter: ModelAdapter[R], arguments: Mapping[str, Any], record: R, pictures: int) -> list[CallRecord]:
    """What each picture's concepts need of a call of several pictures."""
    named = named_arguments(adapter.transformer, (), arguments)
    rows = record.batch // pictures
    return [
        adapter.observe(named, slice(first, first + rows), record.call.step, record.call)
        for first in range(0, rows * pictures, rows)
    ]


def _parts_of(record: R, calls: Sequence[CallRecord]) -> list[R]:
    """The record of each picture of a batch; without calls, that of one picture alone."""
    if not calls:
        return [record]
    rows = record.batch // len(calls)
    return [record.rows(slice(n * rows, (n + 1) * rows), call).clone() for n, call in enumerate(calls)]
