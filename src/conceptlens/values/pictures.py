"""What any picture becomes before a model sees it: upright RGB of 8 bits, with sides that can be read."""

from __future__ import annotations

import struct

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps

from conceptlens.values.errors import ImageError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif")
"""Endings of the files in a folder that are taken for pictures."""
MIN_SIDE, MAX_SIDE, MAX_ASPECT = 8, 16384, 8
"""Smallest and largest height and width of an image that is read, in pixels; the longer side over the shorter."""
DAMAGED = (
    OSError, ValueError, SyntaxError, TypeError, RuntimeError, EOFError, IndexError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip
"""What the decoders raise when a file is damaged, too large, or no picture."""


def as_rgb(picture: Image.Image) -> Image.Image:
    """A picture of any mode as upright RGB: deeper values at 8 bits, transparency over white.

    Raises:
        Exception: one of `DAMAGED`, when the pixels cannot be decoded.
    """
    picture = upright(picture)
    if picture.mode in ("F", "I") or picture.mode.startswith("I;16"):
        return Image.fromarray(_eight_bits(np.asarray(picture, np.float32))).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def upright(picture: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says."""
    try:
        return ImageOps.exif_transpose(picture) or picture
    except Exception:
        # Damaged metadata raises whatever its parser meets, from SyntaxError to struct.error. The pixels may be whole:
        # they are taken as they are stored, as browsers do, and raise on their own when they are not.
        return picture


def _eight_bits(values: Float[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
    """Values up to 1, 255 or 65535, the smallest range that holds them all, as 0..255; NaN is black."""
    largest = values.max(initial=0, where=np.isfinite(values))
    top = 65535.0 if largest > 255 else 255.0 if largest > 1 else 1.0
    known = np.nan_to_num(values, nan=0, posinf=top, neginf=0)
    return np.clip(known / top * 255, 0, 255).astype(np.uint8)


def check_size(name: str, size: tuple[int, int]) -> None:
    """Raises an `ImageError` for a (width, height) that cannot be read."""
    if min(size) < MIN_SIDE or max(size) > MAX_SIDE:
        raise ImageError(
            f"{name} is {size[0]}x{size[1]} pixels; sides from {MIN_SIDE} to {MAX_SIDE} can be read. Resize it first."
        )
    if max(size) > MAX_ASPECT * min(size):
        raise ImageError(
            f"{name} is {size[0]}x{size[1]} pixels; a side may be at most {MAX_ASPECT} times the other. Crop it first."
        )
