"""At how many tokens a concept is encoded: T5 attends to its padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

import conceptlens as cl
from conceptlens.families import adapter_for
from conceptlens.readers.loading import Defaults, LoadedModel
from conceptlens.readers.text_streams import reader_of
from conceptlens.session import Session
from conceptlens.values.recipe import Recipe
from tiny_models import aura_flow_pipeline, cogvideox_pipeline, flux_pipeline, sd3_pipeline

SMALL: dict[str, Any] = {"height": 32, "width": 48, "num_inference_steps": 1, "seed": 0}
WORDS = ["house", "sky"]


def concept_at(pipeline: Any, length: int) -> torch.Tensor:
    with torch.no_grad():
        return pipeline._get_t5_prompt_embeds("house", max_sequence_length=length)[0][0]


@pytest.mark.parametrize(("guidance", "length"), [(False, 256), (True, 512)], ids=["schnell", "dev"])
def test_flux_reads_concepts_at_the_length_of_its_checkpoint(guidance: bool, length: int) -> None:
    pipeline = flux_pipeline(guidance_embeds=guidance)
    session = cl.load(pipeline)
    for call in ({}, {"max_sequence_length": 64}):
        embedded = session.embed(("house",), Recipe(), call)
        assert embedded.length == length
        assert torch.equal(embedded.tokens[0], concept_at(pipeline, length))
    assert not torch.equal(concept_at(pipeline, 256), concept_at(pipeline, 512)), "T5 attends to its padding"


def test_a_prompt_says_which_words_of_it_are_cut_and_the_picture_is_the_same() -> None:
    session, prompt = cl.load(flux_pipeline()), "a red house and a blue boat"
    told = "has 8 tokens and a text encoder reads 5; lost to it, as in the plain pipeline: 'a blue boat'"
    with pytest.warns(UserWarning, match=told):
        cut = session.generate(prompt, ["house", "sky"], max_sequence_length=5, **SMALL)
    call: dict[str, Any] = {**SMALL, "max_sequence_length": 5, "generator": torch.Generator().manual_seed(0)}
    del call["seed"]
    assert cut.image.tobytes() == session.pipeline(prompt, **call).images[0].tobytes()


def test_a_reading_tells_the_checkpoint_the_same_length() -> None:
    pipeline = flux_pipeline(guidance_embeds=False)
    adapter, latents = adapter_for(pipeline.transformer), torch.zeros(1, 4, 8, 12)
    rows = {
        given: adapter.prepare(pipeline, latents, "", 0.5, {"max_sequence_length": given} if given else {})
        for given in (None, 64)
    }
    assert {given: call["encoder_hidden_states"].shape[1] for given, call in rows.items()} == {None: 256, 64: 64}


def test_other_families_follow_the_call_and_else_their_pipeline() -> None:
    session = cl.load(aura_flow_pipeline())
    assert [session.embed(("house",), Recipe(), c).length for c in ({}, {"max_sequence_length": 64})] == [256, 64]
    adapter = adapter_for(cogvideox_pipeline().transformer)
    assert adapter.concept_length(None, {}) == adapter.transformer.config.max_text_seq_length
    assert adapter_for(sd3_pipeline().transformer).concept_length(None, {"max_sequence_length": 64}) == 77


def test_what_the_folder_says_comes_first_and_stands_in_every_result() -> None:
    pipeline = flux_pipeline()
    defaults = Defaults(generate={"max_sequence_length": 24})
    session = Session(reader_of(LoadedModel(pipeline, adapter_for(pipeline.transformer), "tiny", defaults)))
    live = session.generate("a house", WORDS, record=True, max_sequence_length=32, **SMALL)
    assert live.details["text_length"] == 24
    assert live.details["pipeline"]["max_sequence_length"] == 32
    assert live.record is not None
    again = session.probe(live.record, WORDS)
    assert again.details["text_length"] == 24
    assert torch.equal(again.scores, live.scores)
    record = session.read(Image.new("RGB", (48, 32)), max_sequence_length=48)
    assert session.probe(record, WORDS).details["text_length"] == 24


def test_the_embedded_model_keeps_its_length() -> None:
    session = cl.load()
    assert session.embed(("house",), session.recipe(), session.generate_defaults).length == 32


def test_doctor_says_it() -> None:
    assert "concepts are encoded at 32 tokens, whatever the prompt's length" in cl.doctor("demo").describe()
    found = cl.doctor(aura_flow_pipeline())
    assert (found.text_length, found.text_length_fixed) == (256, False)
    assert "concepts are encoded at 256 tokens, unless the prompt has another" in found.describe()
