"""What a process has set for all of PyTorch: the same maps, or one clear line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_adapters import pixels_of, session_of, sized
from test_reentry_pipelines import session_of as reentry_session

import conceptlens as cl
from conceptlens.families.kinds.single_stream import SingleStreamAdapter
from conceptlens.features import features
from conceptlens.readers.cross import load_cross
from conceptlens.readers.loading import Defaults, LoadedModel
from conceptlens.readers.text_streams import reader_of
from conceptlens.session import Session
from conceptlens.watch.surroundings import usual_defaults
from tiny_cross import pixart_pipeline
from tiny_models import FAMILIES, flux_pipeline
from tiny_reentry import TINY

CONCEPTS = ["house", "sky"]


@contextmanager
def dtype(kind: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


Setting = Callable[[], AbstractContextManager[object]]
SETTINGS: dict[str, Setting] = {
    "float64": lambda: dtype(torch.float64),
    "bfloat16": lambda: dtype(torch.bfloat16),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default device": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "deterministic": deterministic,
    "gradients": torch.enable_grad,
}
PAINTED = [name for name in SETTINGS if name not in ("autocast", "default device")]


@pytest.fixture(scope="module", params=["flux", "sd3", "hunyuan-video", "bria", "single stream"])
def session(request: pytest.FixtureRequest) -> Session:
    if request.param == "single stream":
        pipeline = flux_pipeline()
        defaults = Defaults(generate=sized(pipeline))
        return Session(reader_of(LoadedModel(pipeline, SingleStreamAdapter(pipeline.transformer), "tiny", defaults)))
    if request.param in TINY:
        return reentry_session(TINY[request.param].pipeline())
    return session_of(FAMILIES[request.param].pipeline())


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_reading_does_not_depend_on_the_process(session: Session, picture: Image.Image, name: str) -> None:
    small = picture.resize((24, 16))
    record = session.read(small, seed=1)
    wanted = session.probe(record, CONCEPTS)
    with SETTINGS[name]():
        asked = session.probe(record, CONCEPTS)
        again = session.read(small, seed=1)
        found = session.probe(again, CONCEPTS)
    later = session.probe(again, CONCEPTS)
    for maps in (asked, found, later):
        assert torch.equal(maps.scores, wanted.scores)
        assert maps.scores.dtype == torch.float32
        assert not maps.scores.is_inference()


@pytest.mark.parametrize("name", PAINTED)
def test_a_painting_does_not_depend_on_the_process(session: Session, name: str) -> None:
    call: dict[str, Any] = {"seed": 3, "num_inference_steps": 1}
    wanted = session.generate("a red house", CONCEPTS, **call)
    with SETTINGS[name]():
        found = session.generate("a red house", CONCEPTS, **call)
    assert torch.equal(found.scores, wanted.scores)
    assert np.abs(pixels_of(found).astype(int) - pixels_of(wanted)).max() <= (name == "bfloat16")


@pytest.mark.parametrize(
    ("name", "says"),
    [("autocast", "torch.autocast is on"), ("default device", "default device is meta, the model is on cpu")],
)
def test_where_a_pipeline_itself_would_be_another_painting_is_refused(session: Session, name: str, says: str) -> None:
    with SETTINGS[name](), pytest.raises(cl.ModelError, match=says):
        session.generate("a red house", CONCEPTS, seed=3, num_inference_steps=1)


def test_a_unet_is_not_painted_under_autocast() -> None:
    unet = cl.load("demo-unet", device="cpu")
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(cl.ModelError, match="torch.autocast is on"):
        unet.generate("a red house", seed=3, num_inference_steps=1)


@pytest.mark.parametrize("name", SETTINGS)
def test_cross_attention_does_not_depend_on_the_process(picture: Image.Image, name: str) -> None:
    model = load_cross(pixart_pipeline())

    def seen() -> torch.Tensor:
        record = model.read(picture, "a red house", model.recipe(None, {"noise": 0.5, "layers": (0, 1)}), 0, {})
        house = model.probe(record, ("house",), record.recipe, {})
        return house.scores

    wanted = seen()
    with SETTINGS[name]():
        assert torch.equal(seen(), wanted)


def test_the_process_is_left_as_it_was() -> None:
    with dtype(torch.float64), torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
        with usual_defaults():
            assert torch.get_default_dtype() == torch.float32
            assert torch.zeros(1).device.type == "cpu"
            assert not torch.is_autocast_enabled("cpu")
            assert not torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float64
        assert torch.zeros(1).device.type == "meta"
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("single_stream", [False, True])
def test_a_record_of_another_precision_is_one_clear_line(picture: Image.Image, single_stream: bool) -> None:
    session = cl.load(flux_pipeline(), single_stream=single_stream)
    record = session.read(picture.resize((24, 16)), seed=1)
    wanted = session.probe(record, CONCEPTS)
    session.pipeline.to(torch.bfloat16)
    says = r"this record holds float32, the model is in bfloat16. Open it with dtype=torch.float32, or make the record"
    with pytest.raises(cl.ModelError, match=says):
        session.probe(record, CONCEPTS)
    if not single_stream:
        with pytest.raises(cl.ModelError, match=says):
            features(session, record, CONCEPTS)
    session.pipeline.to(torch.float32)
    torch.testing.assert_close(session.probe(record, CONCEPTS).scores, wanted.scores, rtol=0.05, atol=0.02)
