"""Clip: the frames of a film, as a video model reads them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from conceptlens.values.errors import ImageError, RecipeError, shown
from conceptlens.values.film_files import evenly, film_frames
from conceptlens.values.pictures import as_rgb, check_size

RATE = 8.0
"""Frames per second where nothing says it; the usual rate of the video models."""
FASTEST = 1000.0


@dataclass(frozen=True, eq=False, repr=False)
class Clip:
    """Frames of one size, and how fast they follow each other.

    Attributes:
        frames: RGB pictures, in order, at least one; pictures of other modes are converted.
        rate: frames per second, above 0, at most 1000.
        numbers: which frames of its film these are, counted from 0; all of them from the first on when empty.

    Raises:
        ImageError: for no frames, frames of different sizes, or sides that cannot be read.
        RecipeError: for an impossible rate, or another number of `numbers` than of frames.
    """

    frames: tuple[Image.Image, ...]
    rate: float | int = RATE
    numbers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        frames = tuple(self.frames) if isinstance(self.frames, (list, tuple)) else ()
        if not frames or not all(isinstance(frame, Image.Image) for frame in frames):
            raise ImageError(
                f"a clip is made of PIL pictures, one or more; got {shown(self.frames)}. Files: Clip.open(path)."
            )
        check_size("frame 0", frames[0].size)
        other = next((n for n, frame in enumerate(frames) if frame.size != frames[0].size), None)
        if other is not None:
            raise ImageError(
                f"frames of a clip have one size; frame 0 is {_sides(frames[0])} pixels, frame {other} "
                f"{_sides(frames[other])}. Resize them to one size."
            )
        check_rate(self.rate)
        numbers = tuple(self.numbers) or tuple(range(len(frames)))
        if len(numbers) != len(frames):
            raise RecipeError(f"numbers has {len(numbers)} entries for {len(frames)} frames. Give one for each.")
        for name, value in (("frames", tuple(map(_plain, frames))), ("rate", float(self.rate)), ("numbers", numbers)):
            object.__setattr__(self, name, value)

    @classmethod
    def open(cls, path: str | Path, *, rate: float | int | None = None, frames: int | None = None) -> Clip:
        """A clip of a file or folder.

        Args:
            path: a GIF (or an animated WebP, PNG or AVIF); an MP4, MOV, WebM or MKV, which needs the extra
                `conceptlens[video]`; or a folder of pictures whose names end in the number of the frame.
            rate: frames per second; the file's own when None, 8 for a folder.
            frames: take at most so many, evenly spread from the first to the last; all when None.

        Raises:
            ImageError: for what cannot be read as a clip, or more frames than memory should hold.
            LibraryError: for an MP4 or its like without the extra.
            RecipeError: for an impossible rate or number of frames.
        """
        if rate is not None:
            check_rate(rate)
        if frames is not None and (isinstance(frames, bool) or not isinstance(frames, int) or frames < 1):
            raise RecipeError(f"frames is a whole number, 1 or more; got {shown(frames)}.")
        film = film_frames(Path(path), frames)
        return cls(film.pictures, _slower(rate or film.rate or RATE, film.count, len(film.pictures)), film.numbers)

    def __len__(self) -> int:
        """The number of frames."""
        return len(self.frames)

    def __getitem__(self, part: slice) -> Clip:
        """Some of the frames as a clip: `clip[10:59]`; of every second one, `clip[::2]`, the rate is half.

        Raises:
            ImageError: where no frame is left.
        """
        if not isinstance(part, slice):
            raise RecipeError(f"a clip is cut with a slice, such as clip[10:59]; got {shown(part)}. Use clip.frames.")
        step = abs(part.step or 1)
        return replace(self, frames=self.frames[part], rate=self.rate / step, numbers=self.numbers[part])

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.frames[0].size

    @property
    def seconds(self) -> float:
        """How long it runs."""
        return len(self) / self.rate

    def spread(self, count: int) -> Clip:
        """At most `count` of the frames, evenly spread from the first to the last, at a rate that keeps the seconds."""
        places = evenly(len(self), count)
        frames, numbers = (tuple(part[place] for place in places) for part in (self.frames, self.numbers))
        return replace(self, frames=frames, rate=_slower(self.rate, len(self), len(places)), numbers=numbers)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} frames, {_sides(self.frames[0])} pixels, {self.rate:g} a second>"


def _plain(frame: Image.Image) -> Image.Image:
    """A frame as upright RGB with nothing besides its pixels; itself where it is that already."""
    if frame.mode == "RGB" and not frame.info:
        return frame
    converted = as_rgb(frame)
    converted.info = {}
    return converted


def _slower(rate: float | int, count: int, taken: int) -> float:
    """The rate at which `taken` frames, evenly spread, show as many seconds as `count` frames at `rate`."""
    return rate * (taken - 1) / (count - 1) if taken > 1 else rate


def check_rate(rate: object) -> None:
    """Raises a `RecipeError` for what is no number of frames per second."""
    number = isinstance(rate, (int, float)) and not isinstance(rate, bool) and math.isfinite(rate)
    if not number or not 0 < rate <= FASTEST:  # pyright: ignore[reportOperatorIssue] - checked on the line above
        raise RecipeError(f"rate is frames per second, above 0, at most {FASTEST:g}; got {shown(rate)}.")


def numbers_besides(clip: Clip) -> tuple[int, ...] | None:
    """The numbers of a clip's frames; None where they are simply all from the first on."""
    return None if clip.numbers == tuple(range(len(clip))) else clip.numbers


def _sides(picture: Image.Image) -> str:
    return f"{picture.width}x{picture.height}"
