"""Films that are read: which frames go into a model, that nothing changes for pictures, and that replay is exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from test_adapters import captured_calls, check_arguments, taken
from torch import Tensor

import conceptlens as cl
from conceptlens.families import adapter_for
from conceptlens.features import features
from conceptlens.maps.films import write_gif
from conceptlens.presence import presence
from conceptlens.readers.loading import Defaults, LoadedModel
from conceptlens.readers.text_streams import reader_of
from conceptlens.session import Session
from specimens.families import cogvideox_transformer
from specimens.random_models import LENGTH
from tiny_models import FAMILIES, cogvideox_pipeline

WORDS = ["house", "tree", "sky"]
pytestmark = pytest.mark.filterwarnings("ignore:.*CPU autocast")  # diffusers on Mochi, without a GPU


def cogvideox_15_pipeline() -> Any:
    changes = {"patch_size_t": 2, "patch_bias": False, "use_rotary_positional_embeddings": True, "sample_frames": 17}
    return cogvideox_pipeline(lambda: cogvideox_transformer(**changes))


MODELS: dict[str, tuple[Callable[[], Any], int]] = {
    **{
        name: (FAMILIES[name].pipeline, step)
        for name, step in {
            "cogvideox-2b": 4,
            "cogvideox-5b": 4,
            "hunyuan-video": 4,
            "hunyuan-video-1.5": 2,
            "mochi": 6,
        }.items()
    },
    "cogvideox-1.5": (cogvideox_15_pipeline, 8),
}
"""Pipelines, and how many frames share one row of the patch grid in time."""


def session_of(name: str) -> Session:
    pipeline = MODELS[name][0]()
    adapter = adapter_for(pipeline.transformer)
    side = adapter.side_multiple(pipeline)
    options = {"height": 2 * side, "width": 3 * side}
    if name.startswith("cogvideox"):
        options["max_sequence_length"] = LENGTH
    return Session(reader_of(LoadedModel(pipeline, adapter, name, Defaults(generate=options))))


def clip(frames: int, rate: float = 8.0) -> cl.Clip:
    """A white disc that moves to the right over a ground that gets brighter."""
    pictures = []
    for number in range(frames):
        picture = Image.new("RGB", (48, 32), (10 * number % 250, 60, 90))
        ImageDraw.Draw(picture).ellipse((3 * number, 8, 3 * number + 12, 20), fill="white")
        pictures.append(picture)
    return cl.Clip(tuple(pictures), rate)


@pytest.fixture(scope="module", params=list(MODELS))
def opened(request: pytest.FixtureRequest) -> tuple[Session, int]:
    return session_of(request.param), MODELS[request.param][1]


def test_a_film_has_a_map_for_every_latent_frame(opened: tuple[Session, int]) -> None:
    session, step = opened
    film = clip(1 + 2 * step)
    record = session.read(film, num_frames=1 + 2 * step, noise=0.4)
    assert (record.grid.frames, record.steps) == (3, 0)
    assert record.clip is not None
    assert [frame.tobytes() for frame in record.clip.frames] == [frame.tobytes() for frame in film.frames]
    maps = session.probe(record, WORDS)
    assert isinstance(maps, cl.VideoMaps)
    assert maps.scores.shape == (3, 3, record.grid.rows, record.grid.cols)
    assert len(maps) == 1 + 2 * step
    assert maps.record is record
    assert [maps.latent_frame(n) for n in (0, 1, step, step + 1, 2 * step)] == [0, 1, 1, 2, 2]
    assert not torch.equal(maps.scores[:, 1], maps.scores[:, 2])
    told = maps.provenance()
    assert (told["task"], told["frames"], told["rate"]) == ("read", 1 + 2 * step, 8.0)
    assert "frame_numbers" not in told


def test_a_film_of_one_frame_is_a_picture(opened: tuple[Session, int]) -> None:
    session, _ = opened
    film = clip(1)
    picture, still = (session.read(each, seed=3, noise=0.4) for each in (film.frames[0], film))
    assert isinstance(session.probe(picture, WORDS), cl.ConceptMaps)
    for own, other in zip(picture.layers, still.layers, strict=True):
        assert all(torch.equal(own.tensors[name], other.tensors[name]) for name in own.tensors)
    assert torch.equal(session.probe(still, WORDS).scores[:, 0], session.probe(picture, WORDS).scores)


def test_a_read_film_survives_its_file(opened: tuple[Session, int], tmp_path: Path) -> None:
    session, step = opened
    samples = 1 if session.adapter.one_picture else 2
    record = session.read(clip(1 + 2 * step, 12.5)[::2], num_frames=1 + step, noise=0.4, samples=samples)
    straight: Any = session.probe(record, WORDS, keep=True)
    session.save_record(record, tmp_path / "film.record")
    loaded = session.load_record(tmp_path / "film.record")
    again: Any = session.probe(loaded, WORDS, keep=True)
    assert torch.equal(again.scores, straight.scores)
    assert torch.equal(again.parts, straight.parts)
    assert samples == 1 or torch.equal(again.spread, straight.spread)
    assert (again.clip.rate, again.clip.numbers) == (6.25, tuple(range(0, 1 + 2 * step, 2)))
    assert [f.tobytes() for f in again.images] == [f.tobytes() for f in straight.images]


def test_films_and_pictures_in_one_list_are_read_as_if_alone(opened: tuple[Session, int]) -> None:
    session, step = opened
    sources = [clip(1 + step), clip(1).frames[0], clip(1 + step)[::-1], clip(1)]
    together = session.read(sources, seed=[1, 2, 3, 2], noise=0.4)
    maps = session.probe(together, WORDS, batch=4)
    for source, seed, own in zip(sources, (1, 2, 3, 2), maps, strict=True):
        alone = session.probe(session.read(source, seed=seed, noise=0.4), WORDS)
        assert type(own) is type(alone)
        torch.testing.assert_close(own.scores, alone.scores, rtol=0, atol=2e-4)


def film_latents(name: str, latents: Tensor) -> Tensor:
    """As the pipeline takes them."""
    return latents.transpose(1, 2) if name.startswith("cogvideox") else latents


@pytest.mark.parametrize("name", [name for name in MODELS if name != "cogvideox-1.5"])
def test_a_reading_calls_the_transformer_as_the_pipeline_does(name: str) -> None:
    """Of CogVideoX 1.5 the pipeline draws the frames that fill up its patches, so there is nothing to compare."""
    session = session_of(name)
    pipeline, adapter = session.pipeline, session.adapter
    options = {**taken(pipeline, guidance_scale=1.0), **session.generate_defaults}
    shape = (3, *FAMILIES[name].latents[1:])
    side = session.adapter.side_multiple(pipeline)
    options |= {"height": 4 * side, "width": 6 * side, "num_frames": 1 + 2 * MODELS[name][1]}
    noise = torch.randn(1, FAMILIES[name].latents[0], *shape)
    given = film_latents(name, noise)
    first = captured_calls(
        pipeline.transformer, lambda: pipeline(prompt="a red house", latents=given, num_inference_steps=2, **options)
    )[0]
    with torch.no_grad():
        made = adapter.prepare(pipeline, noise, "a red house", 1.0, options)
    check_arguments(made, first)


def test_frames_that_do_not_fit_are_left_out_in_one_line() -> None:
    session = session_of("cogvideox-5b")
    with pytest.warns(UserWarning, match=r"of 11 frames the first 9 are read: this model takes 1 \+ 4n, at most 13"):
        record = session.read(clip(11), num_frames=13)
    assert record.clip is not None
    assert record.clip.numbers == tuple(range(9))
    with pytest.warns(UserWarning, match=r"of 21 frames 5 are read, evenly spread: .* at most 5\. num_frames= sets"):
        record = session.read(clip(21))  # as many as the specimen paints
    assert record.clip is not None
    assert (record.clip.numbers, record.clip.rate) == ((0, 5, 10, 15, 20), 1.6)
    assert session.probe(record, WORDS).provenance()["frame_numbers"] == [0, 5, 10, 15, 20]


def test_what_is_asked_of_pictures_alone_refuses_a_film() -> None:
    session = session_of("cogvideox-5b")
    record = session.read(clip(5))
    for ask in (presence, features):
        with pytest.raises(cl.RecipeError, match="asked of pictures; got the record of <Clip of 5 frames"):
            ask(session, record, WORDS)


def test_a_record_with_too_few_frames_is_no_record(tmp_path: Path) -> None:
    session = session_of("cogvideox-5b")
    record = session.read(clip(5))
    assert record.clip is not None
    session.save_record(replace(record, clip=record.clip[:1]), tmp_path / "film.record")
    with pytest.raises(cl.ImageError, match=r"cannot read the record .*: it has 1 frames for 2 latent ones"):
        session.load_record(tmp_path / "film.record")


def test_a_moving_file_is_a_film_for_a_video_model_alone(tmp_path: Path) -> None:
    film = clip(5)
    write_gif(film.frames, tmp_path / "film.gif", 10)
    film.frames[0].save(tmp_path / "still.gif")
    video, stills = session_of("cogvideox-5b"), cl.load()
    record = video.read(tmp_path / "film.gif")
    assert record.clip is not None
    assert (len(record.clip), record.clip.rate) == (5, 10)
    assert video.read(tmp_path / "still.gif").clip is None
    assert stills.read(tmp_path / "film.gif").clip is None
    with pytest.raises(
        cl.ModelError, match="this model reads pictures, not films; got <Clip of 5 frames, 48x32 pixels"
    ):
        stills.read(film)
    with pytest.raises(cl.ModelError, match=r"reads pictures, not films; got the film .*film\.mp4"):
        stills.read(tmp_path / "film.mp4")
    with pytest.raises(cl.RecipeError, match="num_frames is of films, and demo reads pictures"):
        stills.read(film.frames[0], num_frames=5)
    with pytest.raises(cl.RecipeError, match="num_frames must be at least 1"):
        video.read(film, num_frames=0)
