"""Films as files: which ones there are, and their frames as upright RGB pictures. MP4 and its like need `av`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from conceptlens.values.errors import ImageError, LibraryError, one_line
from conceptlens.values.pictures import DAMAGED, PICTURES, as_rgb, check_size

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

FILMS = (".mp4", ".m4v", ".mov", ".webm", ".mkv")
"""Endings of files that hold a film and are no pictures."""
MOVING = ("GIF", "WEBP", "PNG", "AVIF")
"""Formats of pictures whose frames are a film; the pages of a TIFF or the two pictures of a phone's JPEG are none."""
LARGEST = 2**32
"""Bytes that the frames of a film may take."""


@dataclass(frozen=True)
class Film:
    """Frames of a film.

    Attributes:
        pictures: RGB, upright; all of them, or as many as were asked for, evenly spread.
        numbers: which frames of the film these are, from 0.
        count: how many frames the film has.
        rate: frames per second; None where the film does not say it.
    """

    pictures: tuple[Image.Image, ...]
    numbers: tuple[int, ...]
    count: int
    rate: float | None


def is_film(path: Path) -> bool:
    """Whether a file holds a film: by its ending, or several frames in a picture file. A file that is not is none."""
    if path.suffix.lower() in FILMS:
        return True
    try:
        with Image.open(path) as opened:
            return opened.format in MOVING and getattr(opened, "n_frames", 1) > 1
    except DAMAGED:  # whoever opens it as a picture says what is wrong with it
        return False


def check_film(path: Path) -> None:
    """Refuses a file with the ending of a film that cannot be opened. Raises as `film_frames`."""
    with _video(path):
        pass


def film_frames(path: Path, most: int | None = None) -> Film:
    """The frames of a moving picture, a video, or a folder of numbered pictures.

    Args:
        path: of the file or folder.
        most: keep at most so many, evenly spread from the first to the last.

    Raises:
        ImageError: when it cannot be read, or its frames take more than `LARGEST` bytes.
        LibraryError: for a video without the extra.
    """
    if path.is_dir():
        return _of_folder(path, most)
    return _of_video(path, most) if path.suffix.lower() in FILMS else _of_picture(path, most)


def film_extent(path: Path) -> tuple[int, tuple[int, int]]:
    """How many frames a file has, and their (width, height), before any of them is decoded. Raises as `film_frames`."""
    if path.suffix.lower() in FILMS:
        with _video(path) as (container, stream):
            return _extent_of_video(path, container, stream)
    with _readable(path), Image.open(path) as opened:
        return _count_of_picture(opened), opened.size


def evenly(count: int, most: int | None) -> tuple[int, ...]:
    """At most `most` of `count` places, evenly spread, the first and the last among them; of one, the first."""
    taken = count if most is None else min(count, most)
    return tuple(round(place * (count - 1) / max(1, taken - 1)) for place in range(taken))


def _of_folder(folder: Path, most: int | None) -> Film:
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICTURES]
    if not files:
        raise ImageError(f"no frames in {folder}. It must hold files that end in {', '.join(PICTURES)}.")
    numbers = {path: re.findall(r"\d+", path.stem) for path in files}
    for path, found in numbers.items():
        if not found:
            raise ImageError(f"frames in a folder have numbers; {path} has none. Call them frame-000.png, and so on.")
    files.sort(key=lambda path: int(numbers[path][-1]))
    with _readable(files[0]), Image.open(files[0]) as first:
        _check_room(folder, first.size, len(files), most)
    pictures, chosen = [], evenly(len(files), most)
    for place in chosen:
        with _readable(files[place]), Image.open(files[place]) as opened:
            pictures.append(as_rgb(opened))
    return Film(tuple(pictures), chosen, len(files), None)


def _of_picture(path: Path, most: int | None) -> Film:
    pictures, milliseconds = [], 0.0
    with _readable(path), Image.open(path) as opened:
        count = _count_of_picture(opened)
        _check_room(path, opened.size, count, most)
        chosen = evenly(count, most)
        for place in range(count):
            opened.seek(place)
            if place in chosen:
                pictures.append(as_rgb(opened))
            milliseconds += opened.info.get("duration", 0) if count > 1 else 0
    return Film(tuple(pictures), chosen, count, 1000 * count / milliseconds if milliseconds else None)


def _count_of_picture(opened: Image.Image) -> int:
    return getattr(opened, "n_frames", 1) if opened.format in MOVING else 1


def _extent_of_video(path: Path, container: InputContainer, stream: VideoStream) -> tuple[int, tuple[int, int]]:
    """Counted over the packets, since what the header says may be wrong or missing."""
    count = sum(1 for packet in container.demux(stream) if packet.size)
    if not count:
        raise ImageError(f"{path} holds no frames. Use another film.")
    return count, (stream.codec_context.width, stream.codec_context.height)


def _of_video(path: Path, most: int | None) -> Film:
    with _video(path) as (container, stream):
        count, size = _extent_of_video(path, container, stream)
        _check_room(path, size, count, most)
        chosen = evenly(count, most)
        wanted = frozenset(chosen)
        container.seek(0)
        shown = (frame for place, frame in enumerate(container.decode(stream)) if place in wanted)
        pictures = tuple(_upright(frame) for frame in shown)
        rate = stream.average_rate or stream.guessed_rate
    if len(pictures) != len(chosen):
        raise ImageError(f"{path} gave {len(pictures)} of {len(chosen)} frames, so it is damaged. Use another film.")
    return Film(pictures, chosen, count, float(rate) if rate else None)


def _upright(frame: VideoFrame) -> Image.Image:
    """A frame as RGB, turned as the film says: phones store a tall film lying on its side."""
    picture = frame.to_image()
    return picture.rotate(frame.rotation, expand=True) if getattr(frame, "rotation", 0) else picture


@contextmanager
def _video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A film that is open, and its pictures' stream.

    Raises:
        ImageError: for what cannot be read.
        LibraryError: when the extra is not installed.
    """
    if not path.exists():
        raise ImageError(f"no film at {path}. Check the path.")
    try:
        import av
        import av.error
    except ImportError as error:
        raise LibraryError(
            f"reading {path.name} needs av: pip install 'conceptlens[video]'. Or make a GIF of it."
        ) from error
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ImageError(f"{path} has no pictures. Use another film.")
            yield container, container.streams.video[0]
    except av.error.FFmpegError as error:
        raise ImageError(f"cannot read {path} as a film ({one_line(error)}). Use an MP4, a WebM or a GIF.") from error


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Inside it, a picture file is read. Raises an `ImageError` where that fails."""
    try:
        yield
    except FileNotFoundError as error:
        raise ImageError(f"no film at {path}. Check the path.") from error
    except ImageError:
        raise
    except DAMAGED as error:
        raise ImageError(f"cannot read {path} as a film ({one_line(error)}). Use a GIF, MP4 or WebM.") from error


def _check_room(path: Path, size: tuple[int, int], count: int, most: int | None) -> None:
    """Refuses sides that cannot be read, and more frames than memory should hold. Raises an `ImageError`."""
    check_size(str(path), size)
    taken = len(evenly(count, most))
    room = max(1, LARGEST // (3 * size[0] * size[1]))
    if taken > room:
        raise ImageError(
            f"{path} has {count} frames of {size[0]}x{size[1]} pixels, of which {room} can be held. Take fewer: "
            f"Clip.open(path, frames={min(room, 49)})."
        )
