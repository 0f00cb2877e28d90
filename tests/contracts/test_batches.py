"""Many pictures at once give what each gives alone, for every family with a text stream."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import conceptlens as cl
from conceptlens.bench.datasets.scenes import make_scene
from conceptlens.families import adapter_for
from conceptlens.readers import reading
from conceptlens.readers.loading import Defaults, LoadedModel
from conceptlens.readers.pictures import check_batch
from conceptlens.readers.reading import record_pictures
from conceptlens.readers.replay import records_of
from conceptlens.readers.text_streams import TextStreamReader, reader_of
from conceptlens.session import Session
from conceptlens.values.records import ImageRecord
from hooks import hooks_left
from tiny_models import FAMILIES
from tiny_reentry import TINY
from tiny_unets import sd2_pipeline

PIPELINES = {name: family.pipeline for name, family in FAMILIES.items()} | {n: t.pipeline for n, t in TINY.items()}
WORDS = ["house", "sky"]
SEEDS = [3, 1, 4, 1, 5]
pytestmark = pytest.mark.filterwarnings("ignore:.*CPU autocast")


@pytest.fixture(params=PIPELINES)
def session(request: pytest.FixtureRequest) -> Session:
    return session_of(PIPELINES[request.param]())


def session_of(pipeline: Any) -> Session:
    adapter = adapter_for(pipeline.transformer)
    side = adapter.side_multiple(pipeline)
    defaults = Defaults(generate={"height": 4 * side, "width": 6 * side, "max_sequence_length": 64})
    return Session(reader_of(LoadedModel(pipeline, adapter, "tiny", defaults)))


def pictures(session: Session) -> list[Image.Image]:
    """Noise of two shapes, mixed."""
    side, random = session.adapter.side_multiple(session.pipeline), np.random.default_rng(0)
    sizes = [(4, 6), (6, 4), (4, 6), (4, 6), (6, 4)]
    arrays = [random.integers(0, 255, (rows * side, cols * side, 3), dtype=np.uint8) for rows, cols in sizes]
    return [Image.fromarray(array) for array in arrays]


def same_records(one: ImageRecord, other: ImageRecord) -> None:
    assert (one.seed, one.prompt, one.grid, len(one.layers)) == (
        other.seed,
        other.prompt,
        other.grid,
        len(other.layers),
    )
    for left, right in zip(one.layers, other.layers, strict=True):
        assert left.tensors.keys() == right.tensors.keys()
        for name, tensor in left.tensors.items():
            torch.testing.assert_close(tensor, right.part(name), rtol=1e-3, atol=1e-4)


def test_many_pictures_are_read_and_asked_as_each_alone(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two shapes, with a seed each and two noise draws; those of one shape share a forward."""
    alone = session.adapter.one_picture
    several, settings = pictures(session), {"prompt": "a red house", "samples": 1 if alone else 2}
    forwards: list[int] = []

    def counted(*given: Any) -> Any:
        forwards.append(given[-1])
        return record_pictures(*given)

    monkeypatch.setattr(reading, "record_pictures", counted)
    records = session.read(several, seed=SEEDS, batch=2, **settings)
    assert forwards == ([1] * 5 if alone else [2, 1, 2])  # pictures 0 and 2, 3, 1 and 4
    maps = session.probe(records, WORDS, keep=True, batch=4)
    assert hooks_left(session) == []
    for picture, seed, record, shown in zip(several, SEEDS, records, maps, strict=True):
        single = session.read(picture, seed=seed, **settings)
        assert record.layers[0].batch == settings["samples"]
        same_records(record, single)
        wanted = session.probe(single, WORDS, keep=True)
        assert (shown.image.size, shown.seed, shown.scores.shape) == (picture.size, seed, wanted.scores.shape)
        for name, tolerance in (("scores", 1e-5), ("parts", 1e-4), *([] if alone else [("spread", 1e-4)])):
            torch.testing.assert_close(getattr(shown, name), getattr(wanted, name), rtol=1e-4, atol=tolerance)
    assert not torch.allclose(maps[0].scores, maps[2].scores, atol=1e-4)


def test_a_text_is_encoded_once_for_all_pictures(session: Session) -> None:
    """The prompt's first forward is the only one, whatever the number of batches; a second reading encodes anew."""
    several, calls = pictures(session), []
    names = [name for name in session.pipeline.components if name.startswith("text_encoder")]
    encoders = [encoder for name in names if isinstance(encoder := getattr(session.pipeline, name), torch.nn.Module)]
    parts = [part for encoder in encoders for part in encoder.modules() if isinstance(part, torch.nn.Embedding)]
    handles = [part.register_forward_hook(lambda *_: calls.append(1)) for part in parts]
    session.read(several[:1], prompt="a red house")
    once = len(calls)
    assert once >= 1
    session.read(several, prompt="a red house", batch=1)
    for handle in handles:
        handle.remove()
    assert len(calls) == 2 * once
    assert not any("forward" in vars(encoder) for encoder in encoders)


def test_a_record_keeps_no_other_pictures_memory() -> None:
    session = session_of(FAMILIES["flux"].pipeline())
    several = pictures(session)
    one, other, *_ = session.read([several[0], several[2]])
    for layer in one.layers:
        for tensor in layer.tensors.values():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes
    gone = weakref.ref(other.layers[0].part("key"))
    gc.disable()  # nor until Python looks for cycles
    try:
        del other
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("options", [{"preset": "sharp"}, {"space": "cross"}, {"isolate": True}, {"softmax": False}])
def test_other_settings(options: dict[str, Any]) -> None:
    session = session_of(FAMILIES["flux"].pipeline())
    several = pictures(session)
    for picture, maps in zip(several, session.probe(session.read(several, **options), WORDS), strict=True):
        alone = session.probe(session.read(picture, **options), WORDS)
        torch.testing.assert_close(maps.scores, alone.scores, rtol=1e-5, atol=1e-5)


def test_prompts_of_their_own() -> None:
    session = session_of(FAMILIES["sd3.5-medium"].pipeline())
    several, prompts = pictures(session)[2:4], ["a red house", "a boat on the sea"]
    for picture, prompt, record in zip(several, prompts, session.read(several, prompt=prompts), strict=True):
        same_records(record, session.read(picture, prompt=prompt))


def test_painted_records_are_asked_together() -> None:
    session = session_of(FAMILIES["flux"].pipeline())
    painted = [session.generate("a red house", WORDS, seed=n, num_inference_steps=2, record=True) for n in (1, 2)]
    for maps, again in zip(painted, session.probe([maps.record for maps in painted], WORDS), strict=True):  # type: ignore[misc]
        torch.testing.assert_close(again.scores, maps.scores, rtol=1e-5, atol=1e-5)


def test_the_concept_stream_runs_once_for_records_of_one_shape() -> None:
    session = session_of(FAMILIES["flux"].pipeline())
    records, calls = session.read(pictures(session)), []
    reader = session.reader
    assert isinstance(reader, TextStreamReader)
    begin, reader.begin = reader.begin, lambda *args: calls.append(1) or begin(*args)  # type: ignore[method-assign]
    session.probe(records, WORDS)
    session.probe(records, WORDS, batch=1)
    assert len(calls) == 2 + 5


def test_models_that_cannot_share_a_forward_read_one_after_another() -> None:
    session = cl.load(sd2_pipeline())
    several = [Image.fromarray(np.full((64, 64, 3), shade, np.uint8)) for shade in (40, 200)]
    maps = session.probe(session.read(several, size=64, seed=[1, 2]), ["tree", "house"])
    for picture, seed, shown in zip(several, (1, 2), maps, strict=True):
        alone = session.probe(session.read(picture, size=64, seed=seed), ["tree", "house"])
        assert torch.equal(shown.scores, alone.scores)


def _values(several: Sequence[Image.Image]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(picture)).movedim(-1, 0) / 255 for picture in several])


def test_tensors_are_pictures(demo: Session) -> None:
    """In 0..1, at the model's size or another, alone, in a list, or with a batch axis."""
    random = np.random.default_rng(0)
    files = [Image.fromarray(random.integers(0, 255, (64, 64, 3), dtype=np.uint8)) for _ in range(2)]
    values = _values(files)
    wanted = demo.probe(demo.read(files, seed=[1, 2]), WORDS)
    for given in (values, list(values), tuple(values.double())):
        for maps, other in zip(demo.probe(demo.read(given, seed=[1, 2]), WORDS), wanted, strict=True):
            torch.testing.assert_close(maps.scores, other.scores, rtol=0, atol=1e-5)
            assert maps.image.tobytes() == other.image.tobytes()
    torch.testing.assert_close(
        demo.probe(demo.read(values[1], seed=2), WORDS).scores, wanted[1].scores, rtol=0, atol=1e-5
    )
    large = torch.nn.functional.interpolate(values[:1], (128, 128), mode="nearest")
    small = demo.probe(demo.read(large, seed=1), WORDS)[0]
    assert small.image.size == (128, 128)
    assert float(np.corrcoef(small.scores.flatten(), wanted[0].scores.flatten())[0, 1]) > 0.9


WHITE = torch.ones(2, 3, 64, 64)


@pytest.mark.parametrize(
    ("image", "options", "says"),
    [
        ([], {}, "no pictures in this list or tensor. Give at least one"),
        (WHITE[:0], {}, "no pictures in this list or tensor"),
        (WHITE * 255, {}, r"in 0..1, .*; got values from 255 to 255. Scale or clamp"),
        (WHITE - 2, {}, "got values from -1 to -1"),
        (WHITE * float("nan"), {}, "got values from nan to nan"),
        ((WHITE * 255).byte(), {}, r"got uint8. Bytes: use tensor.float\(\) / 255"),
        (WHITE.movedim(1, -1), {}, r"got a Tensor of shape \(2, 64, 64, 3\). Use movedim\(-1, -3\)"),
        (WHITE[0].movedim(0, -1), {}, r"got a Tensor of shape \(64, 64, 3\). Use movedim\(-1, -3\)"),
        (WHITE[:, :2], {}, r"got a Tensor of shape \(2, 2, 64, 64\)"),
        (WHITE[0, 0], {}, r"got a Tensor of shape \(64, 64\)"),
        (WHITE[:, :, :2, :2], {}, "tensor is 2x2 pixels"),
        ([WHITE], {}, r"got a Tensor of shape \(2, 3, 64, 64\)"),
        (WHITE, {"seed": [1]}, r"seed has 1 entries for 2 picture\(s\)"),
        (WHITE, {"prompt": ["a", "b", "c"]}, r"prompt has 3 entries for 2 picture\(s\)"),
        (WHITE[0], {"seed": [1, 2]}, r"seed has 2 entries for 1 picture\(s\)"),
        (WHITE, {"batch": 0}, "batch is a whole number of pictures, 1 or more; got 0"),
        (WHITE, {"batch": True}, "batch is a whole number"),
    ],
)
def test_what_is_no_batch_of_pictures(demo: Session, image: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(cl.ConceptlensError, match=says) as caught:
        demo.read(image, **options)
    assert "\n" not in str(caught.value)


def test_what_is_no_list_of_records(demo: Session) -> None:
    record = demo.read(WHITE[0])
    for records, says in (
        ([], "no records in this list"),
        ([record, "picture"], "probe asks a record; got 'picture'"),
        ([record, demo.read(WHITE[0], noise=0.5)], "noise of record 1 is 0.5, of record 0 0.25. Probe them apart"),
    ):
        with pytest.raises(cl.RecipeError, match=says):
            records_of(records, "demo")
    with pytest.raises(cl.ModelError, match="this record was made by demo, this session has other"):
        records_of([record], "other")


@pytest.mark.parametrize("batch", [0, -1, 2.0, True, None, "8"])
def test_a_batch_is_a_whole_number(batch: object) -> None:
    with pytest.raises(cl.RecipeError, match="batch is a whole number of pictures, 1 or more; got"):
        check_batch(batch)


def test_the_embedded_model_to_five_digits(demo: Session) -> None:
    scenes = [Image.fromarray(make_scene(number).image) for number in range(6)]
    seeds = list(range(6))
    for maps, scene, seed in zip(demo.probe(demo.read(scenes, seed=seeds), WORDS), scenes, seeds, strict=True):
        alone = demo.probe(demo.read(scene, seed=seed), WORDS)
        torch.testing.assert_close(maps.scores, alone.scores, rtol=0, atol=1e-5)
