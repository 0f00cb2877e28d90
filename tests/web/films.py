"""A tiny random video model, and films to show it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

import conceptlens as cl
from conceptlens.families import adapter_for
from conceptlens.maps.films import write_mp4
from conceptlens.readers.loading import Defaults, LoadedModel
from conceptlens.readers.text_streams import reader_of
from conceptlens.session import Session
from specimens.random_models import LENGTH
from tiny_models import cogvideox_pipeline

FRAMES = 9


def video_session() -> Session:
    """CogVideoX's classes with random weights: nine frames of 48 x 32 pixels, in three latent frames."""
    pipeline = cogvideox_pipeline()
    adapter = adapter_for(pipeline.transformer)
    side = adapter.side_multiple(pipeline)
    options = {"height": 2 * side, "width": 3 * side, "num_frames": FRAMES, "max_sequence_length": LENGTH}
    return Session(reader_of(LoadedModel(pipeline, adapter, "tiny film", Defaults(generate=options))))


def clip(frames: int = FRAMES, rate: float = 10.0) -> cl.Clip:
    """A white disc that moves to the right over a blue ground."""
    pictures = []
    for number in range(frames):
        picture = Image.new("RGB", (48, 32), (20, 60, 90 + 10 * (number % 16)))
        ImageDraw.Draw(picture).ellipse((3 * number % 36, 8, 3 * number % 36 + 12, 20), fill="white")
        pictures.append(picture)
    return cl.Clip(tuple(pictures), rate)


def gif(frames: Sequence[Image.Image], rate: float = 10.0) -> bytes:
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=round(1000 / rate), loop=0)
    return buffer.getvalue()


def mp4(film: cl.Clip, folder: Path) -> bytes:
    write_mp4(film.frames, folder / "film.mp4", film.rate)
    return (folder / "film.mp4").read_bytes()
