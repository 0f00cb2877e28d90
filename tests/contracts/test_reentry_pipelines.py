"""Whole pipelines of families without an adapter of their own: painting, reading, guidance, words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_adapters import captured_calls, pixels_of

import conceptlens as cl
from conceptlens.families import adapter_for
from conceptlens.readers.loading import Defaults, LoadedModel
from conceptlens.readers.text_streams import reader_of
from conceptlens.session import Session
from conceptlens.values.recipe import Recipe
from hooks import hooks_left
from tiny_reentry import TINY, Tiny, bria_pipeline, hidream_pipeline, z_image_pipeline

LENGTH = {"max_sequence_length": 64}
pytestmark = pytest.mark.filterwarnings("ignore:.*CPU autocast")


@pytest.fixture(params=TINY)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return TINY[request.param]


def sized(pipeline: Any) -> dict[str, Any]:
    side = adapter_for(pipeline.transformer).side_multiple(pipeline)
    return {"height": 4 * side, "width": 6 * side, **LENGTH}


def session_of(pipeline: Any) -> Session:
    defaults = Defaults(generate=sized(pipeline))
    return Session(reader_of(LoadedModel(pipeline, adapter_for(pipeline.transformer), "tiny", defaults)))


def test_painting_and_reading(tiny: Tiny) -> None:
    """The picture is the plain pipeline's; a reading can be asked later, and says the same each time."""
    session = session_of(tiny.pipeline())
    options = {"num_inference_steps": 2, "output_type": "pil", **session.generate_defaults}
    plain = session.pipeline(prompt="a red house", generator=torch.Generator().manual_seed(5), **options)
    maps = session.generate("a red house", ["house", "sky"], seed=5, num_inference_steps=2)
    assert np.array_equal(np.stack([np.asarray(picture) for picture in plain.images]), pixels_of(maps))
    assert maps.scores.shape == (2, 4, 6)
    assert [piece[-1].strip("▁") for piece in maps.details["tokens"].values()] == ["house", "sky"]
    side = session.adapter.side_multiple(session.pipeline)
    record = session.read(Image.new("RGB", (16 * side, 6 * side), "red"), noise=0.3)
    assert record.grid.cols >= 2 * record.grid.rows
    shown, again = (session.probe(record, ["house", "sky"]) for _ in range(2))
    assert torch.equal(shown.scores, again.scores)
    assert torch.isfinite(shown.scores).all()
    assert not torch.allclose(shown.scores, session.probe(record, ["sea", "boat"]).scores, atol=1e-6)
    assert hooks_left(session) == []


def test_with_guidance_the_prompts_own_call_is_read(tiny: Tiny) -> None:
    session = session_of(tiny.pipeline())
    shared = {"seed": 3, "num_inference_steps": 2, "steps": (0,)}
    found = []
    for options in (tiny.guided, tiny.plain):
        found.append(session.generate("a red house", ["house", "sky"], **shared, **options).scores)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)
    other = session.generate("a boat on the sea", ["house", "sky"], **shared, **tiny.plain)
    assert not torch.allclose(found[0], other.scores, rtol=1e-5, atol=1e-7)


def test_prepare_equals_the_pipelines_first_call(tiny: Tiny) -> None:
    pipeline = tiny.pipeline()
    adapter = adapter_for(pipeline.transformer)
    options = {**tiny.plain, **sized(pipeline)}
    noise = torch.randn(1, *tiny.latents)
    given = pipeline._pack_latents(noise, *noise.shape) if tiny.packed else noise

    def act() -> Any:
        return pipeline(prompt="a red house", latents=given, num_inference_steps=2, **options)

    first = captured_calls(pipeline.transformer, act)[0]
    with torch.no_grad():
        made = adapter.prepare(pipeline, noise, "a red house", 1.0, options)
    for name, value in made.items():
        if torch.is_tensor(value) and len(value) != len(
            first[name]
        ):  # guided by a scale of 1, too: the prompt is first
            assert adapter.guided_batch[0] == "prompt"
            assert torch.equal(value, first[name][: len(value)]), name
        elif torch.is_tensor(value):
            torch.testing.assert_close(value, first[name], rtol=0, atol=0, msg=lambda text, n=name: f"{n}: {text}")
        elif isinstance(value, list) and torch.is_tensor(value[0]):
            assert len(value) == 1
            assert torch.equal(value[0], first[name][0]), name


def test_a_reading_has_no_rows_of_a_negative_prompt(tiny: Tiny) -> None:
    """Z-Image's pipeline is guided by a scale of 1, too."""
    session = session_of(tiny.pipeline())
    record = session.read(Image.new("RGB", (64, 64), "red"), samples=2)
    assert {layer.batch for layer in record.layers} == {2}
    maps = session.probe(session.read(Image.new("RGB", (64, 64), "red")), ["house", "sky"])
    assert maps.spread is None


def test_a_concept_is_its_own_words_of_the_prompt(tiny: Tiny) -> None:
    """The row of a word is the one that changes when another word stands in its place."""
    session = session_of(tiny.pipeline())
    adapter, pipeline = session.adapter, session.pipeline

    def last(names: tuple[str, ...]) -> Any:
        recipe = Recipe(pooling="last", pooled="prompt")
        return adapter.embed(pipeline, names, recipe, session.generate_defaults)

    one, other = last(("red house",)), last(("red boat",))
    assert one.positions == other.positions
    assert one.pieces[0][0].strip("▁") == "red"
    first = adapter.embed(pipeline, ("red house",), Recipe(pooling="first", pooled="prompt"), session.generate_defaults)
    assert not torch.allclose(one.tokens, other.tokens)
    assert not torch.allclose(one.tokens, first.tokens)
    with pytest.raises(cl.ConceptError, match="does not fit in"):
        last(("house " * 200,))


def test_an_experimental_model_says_so_in_every_result(tmp_path: Path) -> None:
    session = session_of(z_image_pipeline())
    maps = session.generate("a red house", ["house", "sky"], seed=0, num_inference_steps=1)
    maps.save(tmp_path / "out")
    assert "not validated on real weights" in json.loads((tmp_path / "out" / "maps.json").read_text())["caveat"]


def test_a_saved_record_is_asked_again(tmp_path: Path) -> None:
    session = session_of(z_image_pipeline())
    record = session.read(Image.new("RGB", (48, 32), "blue"))
    again = session.load_record(session.save_record(record, tmp_path / "record.safetensors"))
    shown = session.probe(record, ["house", "sky"])
    assert torch.equal(shown.scores, session.probe(again, ["house", "sky"]).scores)
    painted = session.generate("a red house", ["house", "sky"], seed=1, num_inference_steps=2, record=True)
    assert painted.record is not None
    assert torch.equal(painted.scores, session.probe(painted.record, ["house", "sky"]).scores)


def test_a_folder_of_such_a_model_opens_by_its_name(tmp_path: Path) -> None:
    bria_pipeline().save_pretrained(tmp_path / "bria")
    session = cl.load(tmp_path / "bria", device="cpu")
    found = cl.doctor(tmp_path / "bria")
    assert (session.family, found.tier, found.captured) == ("Bria", "re-entry", 3)
    assert found.tried_on == "the model itself"


def test_a_missing_text_encoder_is_one_clear_line() -> None:
    pipeline = bria_pipeline()
    session = session_of(pipeline)
    pipeline.text_encoder = None
    with pytest.raises(cl.ModelError, match="has no text_encoder, so words cannot be read"):
        session.generate("a red house", ["house", "sky"], num_inference_steps=1)


def test_each_text_encoder_says_its_part_of_a_concept() -> None:
    """HiDream: a row of T5, then every layer of a Llama, whose tokens are counted apart."""
    pipeline = hidream_pipeline()
    adapter = adapter_for(pipeline.transformer)
    found = adapter.embed(pipeline, ("user house",), Recipe(pooling="last", pooled="prompt"), LENGTH)
    t5, llama = (tokenizer("user house") for tokenizer in (pipeline.tokenizer_3, pipeline.tokenizer_4))
    with torch.no_grad():
        rows = pipeline._get_t5_prompt_embeds("user house", 64)[0]
        layers = pipeline._get_llama3_prompt_embeds("user house", 64)[:, 0]
    house, own = len(t5.input_ids) - 2, len(llama.input_ids) - 1  # T5 ends every text with a mark
    assert house != own
    torch.testing.assert_close(found.tokens[0], torch.cat([rows[house], layers[:, own].flatten()]), rtol=0, atol=0)


@pytest.mark.parametrize("size", [(64, 64), (90, 50), (300, 41), (40, 300), (70, 49)])
def test_a_picture_is_fitted_into_the_one_area_of_a_model(size: tuple[int, int]) -> None:
    session = session_of(hidream_pipeline())
    record = session.read(Image.new("RGB", size))
    assert 0.6 * 24 < record.grid.tokens <= 24 or min(record.grid.rows, record.grid.cols) == 1


def test_more_than_the_one_area_of_a_model_is_one_clear_line() -> None:
    pipeline = hidream_pipeline()
    adapter = adapter_for(pipeline.transformer)
    with pytest.raises(cl.ModelError, match="HiDream-I1 takes 384 pixels at most; got 40 x 24. Ask for a smaller size"):
        adapter.prepare(pipeline, torch.randn(1, 4, 12, 20), "a red house", 0.5, sized(pipeline))
