"""A painted image that was recorded: probing it again gives the bits of the live run."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import conceptlens as cl
from conceptlens.families import adapter_for
from conceptlens.readers.keeping import Store
from conceptlens.readers.loading import Defaults, LoadedModel
from conceptlens.readers.text_streams import reader_of
from conceptlens.session import Session
from conceptlens.values.errors import BudgetError, OutputError
from conceptlens.values.records import ImageRecord
from specimens.random_models import LENGTH
from tiny_models import FAMILIES, Family

WORDS = ["house", "tree", "sky"]
SMALL: dict[str, Any] = {"height": 32, "width": 48, "num_inference_steps": 3, "max_sequence_length": 16, "seed": 4}
Maps = cl.ConceptMaps | cl.VideoMaps
pytestmark = pytest.mark.filterwarnings("ignore:.*CPU autocast")  # diffusers on Mochi, without a GPU


def small(family: Family) -> dict[str, Any]:
    """Three steps of it: films have a few frames; FLUX.2 dev's chat template alone takes more than 16 tokens."""
    if family.name == "flux2-dev":
        return {**SMALL, "max_sequence_length": 64}
    if not family.video:
        return SMALL
    film = {**SMALL, "num_frames": 5}
    del film["max_sequence_length"]
    # The positions of CogVideoX 2B take texts of one length alone.
    return {**film, "max_sequence_length": LENGTH} if family.name == "cogvideox-2b" else film


def opened(family: Family) -> Session:
    pipeline = family.pipeline()
    length = {} if family.video else {"max_sequence_length": 64 if family.name == "flux2-dev" else 24}
    defaults = Defaults(generate=length)
    return Session(reader_of(LoadedModel(pipeline, adapter_for(pipeline.transformer), family.name, defaults)))


def pixels_of(maps: Maps) -> list[bytes]:
    return [picture.tobytes() for picture in (maps.images if isinstance(maps, cl.VideoMaps) else [maps.image])]


def recorded(maps: Maps) -> ImageRecord:
    assert maps.record is not None
    return maps.record


@dataclass(frozen=True)
class Painted:
    """One family, and what most tests need of it: a recorded painting, and another of its last two steps."""

    session: Session
    options: dict[str, Any]
    live: Maps
    part: Maps

    def paint(self, words: list[str] = WORDS, **settings: Any) -> Maps:
        return self.session.generate("a red house", words, **settings, **self.options)


@pytest.fixture(scope="module", params=list(FAMILIES))
def painted(request: pytest.FixtureRequest) -> Painted:
    family = FAMILIES[request.param]
    session, options = opened(family), small(family)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*CPU autocast")
        whole, last = (
            session.generate("a red house", WORDS, record=True, keep=True, steps=steps, **options)
            for steps in (None, (1, 2))
        )
    return Painted(session, options, whole, last)


def test_probing_a_painted_record_gives_the_live_maps(painted: Painted) -> None:
    again = painted.session.probe(recorded(painted.live), WORDS, keep=True)
    equals(again, painted.live)


@pytest.mark.parametrize("settings", [{"steps": (0, -1)}, {"space": "cross", "layers": (0, 2)}], ids=str)
def test_so_it_does_with_other_settings(painted: Painted, settings: dict[str, Any]) -> None:
    live = painted.paint(record=True, keep=True, **settings)
    equals(painted.session.probe(recorded(live), WORDS, keep=True), live)


def equals(again: Maps, live: Maps) -> None:
    assert torch.equal(again.scores, live.scores)
    assert again.parts is not None
    assert live.parts is not None
    assert torch.equal(again.parts, live.parts)
    assert pixels_of(again) == pixels_of(live)
    assert again.details["task"] == "generate"


def test_a_record_holds_no_more_memory_than_it_says() -> None:
    """With guidance half of each tensor that passes by is the negative prompt's; a view would keep it."""
    session = opened(FAMILIES["sd3"])
    record = recorded(session.generate("a red house", WORDS, record=True, guidance_scale=5.0, **SMALL))
    for layer in record.layers:
        for name, tensor in layer.tensors.items():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes, name


def test_other_words_and_fewer_steps_equal_a_run_that_asked_them(painted: Painted) -> None:
    words = ["boat", "sea"]
    less: dict[str, Any] = {"steps": (-1,), "isolate": True, "softmax": False}
    live = painted.paint(words, **less)
    assert torch.equal(painted.session.probe(recorded(painted.live), words, **less).scores, live.scores)


def test_recording_leaves_the_picture_alone(painted: Painted) -> None:
    plain = painted.paint()
    assert plain.record is None
    assert pixels_of(plain) == pixels_of(painted.live)
    assert torch.equal(plain.scores, painted.live.scores)


def test_a_painted_record_survives_its_file(painted: Painted, tmp_path: Path) -> None:
    session, live = painted.session, painted.part
    session.save_record(recorded(live), tmp_path / "painted.safetensors")
    loaded = session.load_record(tmp_path / "painted.safetensors")
    assert (loaded.steps, loaded.recorded_steps) == (3, (1, 2))
    assert loaded.nbytes == recorded(live).nbytes
    assert torch.equal(session.probe(loaded, WORDS).scores, live.scores)


def test_steps_that_were_not_recorded_are_one_clear_line(painted: Painted) -> None:
    record = recorded(painted.paint(record=True, steps=(0, 2)))
    with pytest.raises(cl.RecipeError, match=r"step 1 was not recorded \(recorded: 0, 2\). Paint it again with steps="):
        painted.session.probe(record, WORDS, steps=(1,))


def test_a_record_has_a_stated_size_and_a_budget(painted: Painted) -> None:
    nbytes = recorded(painted.live).nbytes
    assert nbytes % 3 == 0
    assert recorded(painted.paint(record=True, record_budget=nbytes)).nbytes == nbytes
    with pytest.raises(BudgetError, match=r"a record of 3 steps takes .* 2 steps would fit") as caught:
        painted.paint(record=True, record_budget=nbytes - 1)
    assert caught.value.fitting == 2
    assert not hasattr(painted.session.pipeline.transformer, "_diffusers_hook")


def test_a_record_is_cut_to_its_budget_where_that_is_asked(painted: Painted) -> None:
    each, chosen = recorded(painted.live).nbytes // 3, painted.part
    with pytest.warns(UserWarning, match="of 3 steps the record has room for 2"):
        cut = painted.paint(record="fit", record_budget=3 * each - 1)
    assert recorded(cut).recorded_steps == (1, 2)
    assert cut.recipe is not None
    assert cut.recipe.steps == (1, 2)
    assert pixels_of(cut) == pixels_of(chosen)
    assert torch.equal(cut.scores, chosen.scores)
    assert torch.equal(painted.session.probe(recorded(cut), WORDS).scores, chosen.scores)
    with pytest.raises(BudgetError, match="0 steps would fit"):
        painted.paint(record="fit", record_budget=each - 1)


@pytest.mark.parametrize("store", ["cpu", "disk"])
def test_a_record_lives_where_it_is_told_to(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    session = opened(FAMILIES["flux"])
    live = session.generate("a red house", WORDS, record=True, record_store=store, **SMALL)
    assert torch.equal(session.probe(recorded(live), WORDS).scores, live.scores)
    mapped = f"{tmp_path}/conceptlens-" in Path("/proc/self/maps").read_text()
    assert mapped == (store == "disk")
    session.save_record(recorded(live), tmp_path / "kept.safetensors")
    del live
    assert [path.name for path in tmp_path.iterdir()] == ["kept.safetensors"]


def test_where_a_record_cannot_live_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = opened(FAMILIES["flux"])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(OutputError, match="the record cannot be kept on disk: .* Set TMPDIR"):
        session.generate("a red house", WORDS, record=True, record_store="disk", **SMALL)
    assert not hasattr(session.pipeline.transformer, "_diffusers_hook")


def test_one_picture_at_a_time(painted: Painted) -> None:
    with pytest.raises(cl.RecipeError, match="one picture at a time"):
        painted.session.generate(["a house", "a boat"], WORDS, record=True, **painted.options)
