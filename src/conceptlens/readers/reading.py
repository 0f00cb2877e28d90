"""An existing image: pixels to latents, noise, and one partial forward."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from conceptlens.families.base import ModelAdapter
from conceptlens.readers.loading import LoadedModel
from conceptlens.readers.stream import needs_queries
from conceptlens.readers.text_side import text_encoders
from conceptlens.values.early_exit import StopForward
from conceptlens.values.errors import ModelError, RecipeError, one_line
from conceptlens.values.models import Model, Module, Pipeline
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import LayerRecord, R, TokenGrid
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


def encode_image(
    pipeline: Pipeline, adapter: ModelAdapter, image: Image.Image, size: tuple[int, int], samples: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Clean latents (1, channel, rows, cols) and noise (samples, channel, rows, cols) in the transformer's dtype.

    The seed draws the noise on the CPU, so that it is the same on every device; the VAE gives its mode, not a sample.
    """
    width, height = size
    device, vae = execution_device(pipeline), pipeline.vae
    processor = getattr(pipeline, "image_processor", None) or pipeline.video_processor
    pixels = processor.preprocess(image, height=height, width=width)
    latents = adapter.encode(pipeline, pixels.to(device=device, dtype=vae.dtype))
    dtype = pipeline.transformer.dtype
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.randn((samples, *latents.shape[1:]), generator=generator, dtype=torch.float32, device="cpu")
    noise = drawn.to(device=device, dtype=dtype)
    return latents.to(dtype), noise


@torch.no_grad()
def read(
    model: LoadedModel, image: Image.Image, prompt: str, recipe: Recipe, seed: int, options: Mapping[str, Any]
) -> tuple[tuple[LayerRecord, ...], TokenGrid]:
    """One forward of the noised image that ends after the last wanted block.

    Returns:
        The records of all blocks up to the last wanted one (outputs of the wanted ones only), and the patch grid.

    Raises:
        RecipeError: for the branch of a negative prompt.
        ModelError: for a model that takes more than a picture and a text.
    """
    assert recipe.layers is not None
    if recipe.branch != "prompt":
        raise RecipeError("branch='negative' is for generate: a reading has one pass, its prompt's. Drop branch.")
    pipeline, adapter = model.pipeline, model.adapter
    size = working_size(image.size, _area(model), adapter.side_multiple(pipeline), within=adapter.one_area)
    try:
        clean, noise = encode_image(pipeline, adapter, image, size, recipe.samples, seed)
        noised = adapter.add_noise(pipeline, clean.expand_as(noise).float(), noise.float(), recipe.noise)
        noised = noised.to(noise.dtype)
        with text_encoders(pipeline):
            arguments = adapter.prepare(pipeline, noised, prompt, recipe.noise, options)
        with _picture_alone(adapter.transformer):
            layers = record_call(adapter, arguments, recipe)
    finally:
        pipeline.maybe_free_model_hooks()
    return layers, layers[0].call.grid


def _area(model: LoadedModel) -> int:
    """In pixels, that of the pictures the model is at home with."""
    given = model.defaults.generate
    if "width" in given and "height" in given:
        return given["width"] * given["height"]
    return model.adapter.native_area(model.pipeline)


@contextmanager
def _picture_alone(transformer: Model) -> Iterator[None]:
    """Inside it a transformer is called with a picture and a text.

    Raises:
        ModelError: when it cannot be called so.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(f"{one_line(error)}. Use offload=True, fewer samples, or a smaller model.") from error
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
    assert recipe.layers is not None
    kept: list[R] = []

    def keep(block: Module, record: R) -> None:
        kept.append(record)

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
    if len(kept) != recipe.layers[-1] + 1:
        raise ModelError(f"{len(kept)} of {recipe.layers[-1] + 1} blocks were seen; the record would be partial.")
    return tuple(kept)
