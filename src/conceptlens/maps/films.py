"""Moving pictures as files that every player opens. MP4 needs the extra `conceptlens[video]`; GIF needs nothing."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from conceptlens.values.clips import RATE, check_rate
from conceptlens.values.errors import LibraryError, OutputError, RecipeError
from conceptlens.values.film_files import evenly


def can_write_mp4() -> bool:
    """Whether the extra is installed; says once what is left out where it is not."""
    if find_spec("av") is None:
        _note_missing()
        return False
    return True


def write_gif(frames: Sequence[Image.Image], file: Path | io.BytesIO, rate: float | int = RATE) -> None:
    """Frames of one size as a GIF that repeats, `rate` of them a second, at most 100.

    Raises:
        OutputError: for an impossible rate.
        OSError: when the file cannot be written.
    """
    _check_rate(rate)
    shown = max(10, round(1000 / rate))  # milliseconds; a GIF counts in hundredths of a second
    frames[0].save(file, format="GIF", save_all=True, append_images=frames[1:], duration=shown, loop=0)


def film_url(frames: Sequence[Image.Image], rate: float | int, *, side: int = 480, most: int = 24) -> str:
    """A GIF as a data URL, small enough for a page: its longer side at most `side` pixels, at most `most` frames."""
    chosen = evenly(len(frames), most)
    small = [frames[place].convert("RGB") for place in chosen]
    for frame in small:
        frame.thumbnail((side, side))
    buffer = io.BytesIO()
    write_gif(small, buffer, rate * len(chosen) / len(frames))
    return f"data:image/gif;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def write_mp4(frames: Sequence[Image.Image], file: Path, rate: float | int = RATE) -> None:
    """Frames of one size as H.264 in an MP4, with the pixel format that browsers play.

    That format stores colours for two by two pixels, so an odd side gets its last row or column once more.

    Args:
        frames: RGB, all of one size in pixels.
        file: where to write; the caller keeps a half-written file out of sight.
        rate: frames per second.

    Raises:
        LibraryError: when the extra is not installed.
        OutputError: for an impossible rate.
        OSError: when the file cannot be written.
    """
    _check_rate(rate)
    try:
        import av
    except ImportError as error:
        raise LibraryError("MP4 files need av: pip install 'conceptlens[video]'. Or use the GIF.") from error
    width, height = frames[0].size
    with av.open(str(file), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", Fraction(rate).limit_denominator(1001), {"crf": "18"})
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            pixels = np.pad(np.asarray(frame.convert("RGB")), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def _check_rate(rate: float | int) -> None:
    try:
        check_rate(rate)
    except RecipeError as error:
        raise OutputError(str(error)) from error


@cache
def _note_missing() -> None:
    warnings.warn("no MP4 beside the GIF: it needs pip install 'conceptlens[video]'.", stacklevel=4)
