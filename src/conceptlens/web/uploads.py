"""Files that are brought: pictures and films, opened only where their size is allowed."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, features

from conceptlens.maps.picture_files import open_image
from conceptlens.values.clips import Clip
from conceptlens.values.errors import ImageError, one_line
from conceptlens.values.film_files import MOVING, film_extent
from conceptlens.values.pictures import DAMAGED
from conceptlens.web.errors import RequestError
from conceptlens.web.limits import Limits

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", *(("AVIF",) if "avif" in features.modules else ()))


def opened(data: bytes, limits: Limits, most: int | None = None) -> Image.Image | Clip:
    """An upright RGB picture from the bytes of a file; its pixels are decoded only when their number is allowed.

    Args:
        data: of the file.
        limits: of the page.
        most: how many frames of a film are taken, evenly spread; None to take the first of a moving picture, and no
            film.

    Raises:
        RequestError: 415 for bytes that are no picture, 413 for too many pixels or frames, 422 for a damaged file.
        LibraryError: for a video without the extra.
    """
    ending = None if most is None else _film_ending(data)
    if ending is not None:
        return _opened_film(data, ending, limits, most)
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise RequestError(413, f"this picture is too large: {one_line(error)}. Shrink it first.") from error
    except DAMAGED as error:
        raise RequestError(415, "this file cannot be read as a picture. Use PNG, JPEG, WebP or TIFF.") from error
    width, height = picture.size
    if width * height > limits.upload_pixels:
        raise RequestError(413, f"{width}x{height} pixels are more than {limits.upload_pixels:,}. Shrink it first.")
    try:
        if picture.format == "JPEG":
            picture.draft("RGB", (limits.side, limits.side))
        picture.load()
    except DAMAGED as error:
        raise RequestError(422, f"this picture is damaged ({one_line(error)}). Save it again.") from error
    upright = open_image(picture)
    upright.thumbnail((limits.side, limits.side))
    return upright


def _film_ending(data: bytes) -> str | None:
    """The ending of a file with these bytes, where they are a film.

    A video's decoder opens whatever it is given, also lists of other files, so it gets nothing but what begins like
    the two kinds of containers that are served.
    """
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except DAMAGED:
        picture = None
    if picture is not None:
        return ".gif" if picture.format in MOVING and _moves(picture) else None
    if data[4:8] == b"ftyp":
        return ".mp4"
    return ".webm" if data[:4] == b"\x1aE\xdf\xa3" else None


def _moves(picture: Image.Image) -> bool:
    """Whether there are several frames. A file that ends within one has them, and is refused where it is read."""
    try:
        return getattr(picture, "n_frames", 1) > 1
    except DAMAGED:
        return True


def _opened_film(data: bytes, ending: str, limits: Limits, most: int | None) -> Clip:
    """Frames of a film, none of them larger than is kept. Raises as `opened`."""
    with TemporaryDirectory(prefix="conceptlens-") as folder:
        path = Path(folder) / f"film{ending}"
        path.write_bytes(data)
        try:
            _check_extent(*film_extent(path), limits)
            clip = Clip.open(path, frames=most)
        except ImageError as error:
            raise RequestError(422, str(error).replace(str(path), "this file")) from error
    frames = tuple(frame.copy() for frame in clip.frames)
    for frame in frames:
        frame.thumbnail((limits.film_side, limits.film_side))
    return replace(clip, frames=frames)


def _check_extent(count: int, size: tuple[int, int], limits: Limits) -> None:
    if count > limits.frames:
        raise RequestError(413, f"this film has {count:,} frames; {limits.frames:,} are allowed. Cut it first.")
    width, height = size
    if count * width * height > limits.film_pixels:
        raise RequestError(
            413,
            f"{count} frames of {width}x{height} pixels are more than {limits.film_pixels:,} together. Shrink or cut "
            "the film first.",
        )
