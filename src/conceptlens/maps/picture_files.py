"""Picture files: what any of them becomes before a model sees it, an upright RGB picture of 8 bits."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from conceptlens.values.errors import ImageError, one_line
from conceptlens.values.pictures import DAMAGED, as_rgb, check_size


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
            check_size(name, source.size)
            return as_rgb(source)
        with Image.open(source) as opened:
            check_size(name, opened.size)
            return as_rgb(opened)
    except FileNotFoundError as error:
        raise ImageError(f"no image at {name}. Check the path.") from error
    except ImageError:
        raise
    except DAMAGED as error:
        raise ImageError(
            f"cannot read {name} as an image ({one_line(error)}). Use a PNG, JPEG, WebP, AVIF or TIFF."
        ) from error
