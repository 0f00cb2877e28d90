"""An existing image: pixels to latents, noise, and one partial forward."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from conceptlens.adapters.base import ModelAdapter
from conceptlens.engine.recorder import Recorder, StopForward
from conceptlens.engine.stream import needs_queries
from conceptlens.engine.text_side import text_encoders
from conceptlens.errors import ImageError, ModelError, RecipeError, one_line
from conceptlens.recipe import Recipe
from conceptlens.records import LayerRecord, TokenGrid

MIN_SIDE, MAX_SIDE, MAX_ASPECT = 8, 16384, 8
"""Smallest and largest height and width of an image that is read, in pixels; the longer side over the shorter."""


def open_image(source: str | Path | Image.Image) -> Image.Image:
    """An RGB image, upright.

    Raises:
        ImageError: when it cannot be read, or a side is below `MIN_SIDE` or above `MAX_SIDE`.
    """
    if not isinstance(source, (str, Path, Image.Image)):
        raise ImageError(
            f"an image is a path or a PIL picture; got a {type(source).__name__}. Arrays: PIL.Image.fromarray."
        )
    name = "image" if isinstance(source, Image.Image) else str(source)
    try:
        if isinstance(source, Image.Image):
            return _as_rgb(name, source)
        with Image.open(source) as opened:
            return _as_rgb(name, opened)
    except FileNotFoundError as error:
        raise ImageError(f"no image at {name}. Check the path.") from error
    except ImageError:
        raise
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"cannot read {name} as an image ({one_line(error)}). Use a PNG, JPEG or WebP.") from error


def _as_rgb(name: str, picture: Image.Image) -> Image.Image:
    """Upright, 8 bits, transparency over white."""
    _check_size(name, picture.size)
    picture = _upright(picture)
    if picture.mode in ("F", "I") or picture.mode.startswith("I;16"):
        values = np.asarray(picture, np.float32)
        top = 65535.0 if values.max() > 255 else 255.0 if values.max() > 1 else 1.0
        return Image.fromarray(np.clip(values / top * 255, 0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture) or picture
    except Exception:
        # Damaged metadata raises whatever its parser meets, from SyntaxError to struct.error. The pixels may be whole:
        # they are taken as they are stored, as browsers do, and raise on their own when they are not.
        return picture


def _check_size(name: str, size: tuple[int, int]) -> None:
    if min(size) < MIN_SIDE or max(size) > MAX_SIDE:
        raise ImageError(
            f"{name} is {size[0]}x{size[1]} pixels; sides from {MIN_SIDE} to {MAX_SIDE} can be read. Resize it first."
        )
    if max(size) > MAX_ASPECT * min(size):
        raise ImageError(
            f"{name} is {size[0]}x{size[1]} pixels; a side may be at most {MAX_ASPECT} times the other. Crop it first."
        )


def working_size(size: tuple[int, int], area: int, multiple: int, *, within: bool = False) -> tuple[int, int]:
    """(width, height) near the model's own `area` in pixels, same aspect, sides rounded to `multiple`.

    With `within` no larger than the area, whatever the aspect.
    """
    width, height = size
    scale = math.sqrt(area / (width * height)) / multiple
    counts = (int(side * scale + (1e-6 if within else 0.5)) for side in (width, height))
    return tuple(max(1, count) * multiple for count in counts)  # type: ignore[return-value]


def encode_image(
    pipeline: Any, adapter: ModelAdapter, image: Image.Image, size: tuple[int, int], samples: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Clean latents (1, channel, rows, cols) and noise (samples, channel, rows, cols) in the transformer's dtype.

    The seed draws the noise on the CPU, so that it is the same on every device; the VAE gives its mode, not a sample.
    """
    width, height = size
    device, vae = pipeline._execution_device, pipeline.vae
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
    pipeline: Any,
    adapter: ModelAdapter,
    image: Image.Image,
    prompt: str,
    recipe: Recipe,
    seed: int,
    area: int,
    options: Mapping[str, Any],
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
    size = working_size(image.size, area, adapter.side_multiple(pipeline), within=adapter.one_area)
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


@contextmanager
def _picture_alone(transformer: Any) -> Iterator[None]:
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


def record_call(adapter: ModelAdapter, arguments: Mapping[str, Any], recipe: Recipe) -> tuple[LayerRecord, ...]:
    """Runs one transformer call up to the last wanted block and returns what its blocks left behind."""
    assert recipe.layers is not None
    kept: list[LayerRecord] = []

    def keep(block: Any, record: LayerRecord) -> None:
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
