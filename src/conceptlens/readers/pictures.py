"""Pictures as a reading takes them: files, PIL pictures and tensors, one or several."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from conceptlens.maps.picture_files import open_image
from conceptlens.readers.frames import FrameRoom
from conceptlens.values.clips import Clip
from conceptlens.values.errors import ImageError, ModelError, RecipeError, shown
from conceptlens.values.film_files import FILMS, is_film
from conceptlens.values.models import Pipeline
from conceptlens.values.pictures import check_size
from conceptlens.values.recipe import check_seed

BATCH = 8
"""How many pictures go through a model at once unless told otherwise."""
Source = str | Path | Image.Image | Tensor | Clip
"""A picture: a path, a PIL picture, or a tensor (3, height, width) with values in 0..1. A film: a path, or a clip."""
T = TypeVar("T")


@dataclass(frozen=True)
class Reading:
    """One picture to read.

    Attributes:
        image: RGB, of any size.
        prompt: what the model is told about it.
        seed: of the noise.
        values: the picture as it came, where it came as a tensor: in 0..1, on any device, with more than 8 bits.
        clip: the film, whose first frame `image` is; None of a picture.
    """

    image: Image.Image
    prompt: str
    seed: int
    values: Float[Tensor, "1 3 height width"] | None = None
    clip: Clip | None = None

    def pixels(self, pipeline: Pipeline, size: tuple[int, int]) -> Float[Tensor, "1 3 ... width"]:
        """What the autoencoder takes, in -1..1, at a (width, height): (1, 3, height, width), of a film with frames."""
        width, height = size
        processor = getattr(pipeline, "image_processor", None) or pipeline.video_processor
        if self.clip is not None:
            frames = processor.preprocess(list(self.clip.frames), height=height, width=width)
            return frames.transpose(0, 1)[None]
        if self.values is None:
            return processor.preprocess(self.image, height=height, width=width)
        return processor.preprocess(resized(self.values, size), height=height, width=width)


def resized(values: Float[Tensor, "batch 3 _height _width"], size: tuple[int, int]) -> Tensor:
    """Pictures in 0..1 at a (width, height), in float32 or better; as they are where that is their size."""
    width, height = size
    precise = values.to(torch.promote_types(values.dtype, torch.float32))
    if precise.shape[-2:] == (height, width):
        return precise
    scaled = torch.nn.functional.interpolate(precise, (height, width), mode="bicubic", antialias=True)
    return scaled.clamp(0, 1)


def is_several(source: object) -> bool:
    """Whether a source is several pictures: a list, a tuple, or a tensor with a batch axis."""
    return isinstance(source, (list, tuple)) or (isinstance(source, Tensor) and source.ndim == 4)


def readings_of(
    source: object, prompt: str | Sequence[str], seed: int | Sequence[int], room: FrameRoom | None = None
) -> list[Reading]:
    """Pictures and films to read, each with its prompt and its seed.

    Args:
        source: one picture or several (`is_several`).
        prompt: of all of them, or one for each.
        seed: likewise.
        room: how many frames of a film can be read; None where only pictures can.

    Raises:
        ImageError: for a picture or film that cannot be read, or none.
        ModelError: for a film where only pictures can be read.
        RecipeError: for another number of prompts or seeds than of pictures.
    """
    sources = list(source) if is_several(source) else [source]  # type: ignore[call-overload]
    for tensor in [source] if isinstance(source, Tensor) else sources:
        if isinstance(tensor, Tensor):
            _check_values(tensor, axes=4 if tensor is source and tensor.ndim == 4 else 3)
    if not sources:
        raise ImageError("there are no pictures in this list or tensor. Give at least one.")
    prompts = one_each(prompt, len(sources), "prompt")
    seeds = [check_seed(each) for each in one_each(seed, len(sources), "seed")]
    return [_reading(*each, room) for each in zip(sources, prompts, seeds, strict=True)]


def opened(source: str | Path | Image.Image | Clip, room: FrameRoom | None) -> Image.Image | Clip:
    """A picture, or those frames of a film that can be read; without `room` the first frame of a moving picture.

    Raises:
        ImageError: for what cannot be read.
        ModelError: for a film where only pictures can be read.
    """
    path = Path(source) if isinstance(source, (str, Path)) else None
    if room is None:
        if isinstance(source, Clip) or (path is not None and path.suffix.lower() in FILMS):
            what = repr(source) if isinstance(source, Clip) else f"the film {path}"
            raise ModelError(
                f"this model reads pictures, not films; got {what}. Give it a frame (clip.frames[0]), or open a video "
                "model (docs/films.md)."
            )
        return open_image(source)
    if isinstance(source, Clip):
        return room.fitted(source)
    return open_image(source) if path is None or not is_film(path) else room.open(path)


def one_each(value: T | Sequence[T], count: int, name: str) -> list[T]:
    """A value for each of some pictures, out of one for all or one for each.

    Raises:
        RecipeError: for another number of values than of pictures.
    """
    if not isinstance(value, (list, tuple)):
        return [value] * count  # type: ignore[list-item]
    if len(value) != count:
        raise RecipeError(f"{name} has {len(value)} entries for {count} picture(s). Give one for all, or one for each.")
    return list(value)


def check_batch(batch: object) -> int:
    """How many pictures go at once. Raises a `RecipeError` for anything but a whole number above 0."""
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise RecipeError(f"batch is a whole number of pictures, 1 or more; got {shown(batch)}.")
    return batch


def in_batches(items: Sequence[T], key: Callable[[T], Hashable], most: int) -> Iterator[list[int]]:
    """Places of items in groups of one key, at most so many in each; those of a group in their order."""
    groups: dict[Hashable, list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault(key(item), []).append(place)
    for places in groups.values():
        for first in range(0, len(places), most):
            yield places[first : first + most]


def _reading(source: object, prompt: str, seed: int, room: FrameRoom | None) -> Reading:
    if not isinstance(source, Tensor):
        picture = opened(source, room)  # type: ignore[arg-type]
        if isinstance(picture, Clip):
            return Reading(picture.frames[0], prompt, seed, clip=picture)
        return Reading(picture, prompt, seed)
    bytes_ = (source.detach().float() * 255).round().to(torch.uint8).movedim(0, -1).cpu().numpy()
    return Reading(Image.fromarray(bytes_), prompt, seed, source.detach()[None])


def _check_values(values: Tensor, axes: int) -> None:
    """Refuses a tensor that is no picture (3 axes), or no batch of them (4). Raises `ImageError`."""
    expected = "a tensor of pictures is (batch, 3, height, width) in 0..1, one picture alone (3, height, width)"
    if values.ndim != axes or values.shape[-3] != 3:
        remedy = "Use movedim(-1, -3)" if values.ndim == axes and values.shape[-1] == 3 else "Reshape it"
        raise ImageError(f"{expected}; got {shown(values)}. {remedy}.")
    if not values.is_floating_point():
        kind = str(values.dtype).removeprefix("torch.")
        raise ImageError(f"{expected}; got {kind}. Bytes: use tensor.float() / 255.")
    check_size("tensor", (values.shape[-1], values.shape[-2]))
    if not values.numel():
        return
    low, high = (float(bound) for bound in values.detach().aminmax())
    if not (low >= 0 and high <= 1):  # NaN is in no range
        raise ImageError(f"{expected}; got values from {low:.4g} to {high:.4g}. Scale or clamp them.")
