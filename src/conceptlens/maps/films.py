"""Moving pictures as files that every player opens. MP4 needs the extra `conceptlens[video]`; GIF needs nothing."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from conceptlens.values.errors import LibraryError, OutputError

RATE = 8
"""Frames per second by default; the usual rate of the video models."""


def can_write_mp4() -> bool:
    """Whether the extra is installed; says once what is left out where it is not."""
    if find_spec("av") is None:
        _note_missing()
        return False
    return True


def write_gif(frames: Sequence[Image.Image], file: Path, rate: int = RATE) -> None:
    """Frames of one size as a GIF that repeats, `rate` of them a second."""
    shown = round(1000 / rate)  # milliseconds
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=shown, loop=0)


def write_mp4(frames: Sequence[Image.Image], file: Path, rate: int = RATE) -> None:
    """Frames of one size as H.264 in an MP4, with the pixel format that browsers play.

    That format stores colours for two by two pixels, so an odd side gets its last row or column once more.

    Args:
        frames: RGB, all of one size in pixels.
        file: where to write; the caller keeps a half-written file out of sight.
        rate: frames per second, at least 1.

    Raises:
        LibraryError: when the extra is not installed.
        OutputError: for a rate below 1.
        OSError: when the file cannot be written.
    """
    if rate < 1:
        raise OutputError(f"a film shows at least 1 frame a second; got {rate}. Use {RATE}.")
    try:
        import av
    except ImportError as error:
        raise LibraryError("MP4 files need av: pip install 'conceptlens[video]'. Or use the GIF.") from error
    width, height = frames[0].size
    with av.open(str(file), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate, {"crf": "18"})
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            pixels = np.pad(np.asarray(frame.convert("RGB")), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


@cache
def _note_missing() -> None:
    warnings.warn("no MP4 beside the GIF: it needs pip install 'conceptlens[video]'.", stacklevel=4)
