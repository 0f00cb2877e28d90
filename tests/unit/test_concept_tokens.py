"""Which tokens are a concept's own, and which letters are lost, with real vocabularies and with the embedded ones."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

import conceptlens as cl
from conceptlens.families import adapter_for
from conceptlens.families.kinds.tokens import concept_ids, lost_letters
from conceptlens.readers.prompt_places import clip_positions, t5_positions
from conceptlens.values.recipe import Recipe
from conceptlens.watch.prompt_text import warn_of_cuts
from conceptlens.watch.word_places import read_words
from tiny_models import FAMILIES, flux_pipeline, sd3_pipeline, tokenizers

VOCABULARIES = Path(__file__).parents[3] / "shared" / "tokenizers"
HUNDRED = " ".join(["house"] * 100)


def real(name: str) -> Any:
    if not (VOCABULARIES / name).is_dir():
        pytest.skip(f"no real vocabulary in {VOCABULARIES / name}")
    return AutoTokenizer.from_pretrained(VOCABULARIES / name)


@pytest.mark.parametrize(
    ("vocabulary", "word", "pieces"),
    [
        ("t5", "skyscraper", "▁sky s cra per"),
        ("t5", "zebra", "▁ ze bra"),
        ("t5", "T-shirt", "▁T - shirt"),
        ("t5", "hot dog", "▁hot ▁dog"),
        ("t5", "café", "▁café"),
        ("t5", "HOUSE", "▁ HO USE"),
        ("t5", "!!", "▁ !!"),
        ("clip", "skyscraper", "sky scra per</w>"),
        ("clip", "zebra", "zebra</w>"),
        ("clip", "T-shirt", "t</w> -</w> shirt</w>"),
        ("clip", "hot dog", "hot</w> dog</w>"),
        ("clip", "naïve café", "na Ã¯ ve</w> cafÃ©</w>"),
        ("clip", "日本", "æĹ¥ æľ ¬</w>"),
        ("clip", "🙂", "ðŁĻĤ</w>"),
        ("clip", "HOUSE", "house</w>"),
    ],
)
def test_words_as_users_write_them(vocabulary: str, word: str, pieces: str) -> None:
    tokenizer = real(vocabulary)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own = concept_ids(tokenizer, word, 77, vocabulary)
    assert own.pieces == tuple(pieces.split())
    first = 1 if vocabulary == "clip" else 0
    assert own.positions == tuple(range(first, first + len(own.pieces)))


@pytest.mark.parametrize(
    ("word", "pieces", "lost"),
    [
        ("naïve café", "▁ n a ve ▁café", ["ï"]),
        ("日 house", "▁house", ["日"]),
        ("house 日本 🙂", "▁house", ["日本", "🙂"]),
        ("Привет", "ри в ет", ["П"]),
        ("house</s>", "▁house", ["</s>"]),
    ],
)
def test_a_concept_that_loses_letters_says_which(word: str, pieces: str, lost: list[str]) -> None:
    tokenizer = real("t5")
    with pytest.warns(UserWarning, match="is read without " + ", ".join(map(repr, lost))):
        own = concept_ids(tokenizer, word, 77, "T5")
    assert own.pieces == tuple(pieces.split())
    assert lost_letters(tokenizer, word) == tuple(lost)


@pytest.mark.parametrize("word", ["房子", "天空", "日本", "🙂", "</s>", "~"])
def test_a_concept_without_a_token_is_an_error(word: str) -> None:
    with pytest.raises(cl.ConceptError, match="has no token that the T5 tokenizer knows"):
        concept_ids(real("t5"), word, 77, "T5")


@pytest.mark.parametrize("vocabulary", ["t5", "clip"])
def test_a_hundred_words_are_too_many(vocabulary: str) -> None:
    with pytest.raises(cl.ConceptError, match="tokens with the X tokenizer; it reads 77"):
        concept_ids(real(vocabulary), HUNDRED, 77, "X")


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_takes_a_concept_of_unknown_letters(family: str) -> None:
    """Left-padded and templated encoders, too."""
    pipeline = FAMILIES[family].pipeline()
    adapter = adapter_for(pipeline.transformer)
    recipe = adapter.recipe(len(adapter.blocks()))
    with torch.no_grad(), pytest.raises(cl.ConceptError, match="has no token that the .* tokenizer knows"):
        adapter.embed(pipeline, ("房子",), recipe, {"max_sequence_length": 64})
    with torch.no_grad(), pytest.warns(UserWarning, match="'house 房子' is read without '房子'"):
        mixed = adapter.embed(pipeline, ("house 房子",), recipe, {"max_sequence_length": 64})
    assert "".join(mixed.pieces[0]).replace("</w>", "").strip("▁") == "house"


def test_each_clip_of_sd3_is_pooled_over_its_own_tokens() -> None:
    """The second one pads with "!", so "!!" is no word to it, and what stands behind is at another position."""
    pipeline = sd3_pipeline()
    clip = tokenizers()[0]
    clip.add_tokens(["boat"])  # one token for the second, four for the first
    pipeline.tokenizer_2 = clip
    pipeline.text_encoder_2.resize_token_embeddings(len(clip))
    adapter = adapter_for(pipeline.transformer)
    with torch.no_grad():
        found = adapter.embed(pipeline, ("boat sun",), Recipe(pooling="last"), {})
        sides = [pipeline._get_clip_prompt_embeds("boat sun", clip_model_index=i)[0][0] for i in (0, 1)]
    last = [len(t("boat sun").input_ids) - 2 for t in (pipeline.tokenizer, clip)]
    expected = torch.cat([side[place] for side, place in zip(sides, last, strict=True)])
    assert torch.equal(found.tokens[0, : len(expected)], expected)
    assert not found.tokens[0, len(expected) :].any()


def test_two_tokenizers_that_part_a_prompt_differently() -> None:
    first, second = real("clip"), real("clip")
    second.add_special_tokens({"pad_token": "!"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_cuts([first, second], "a red house! a tree")
    with pytest.warns(UserWarning, match="the two text encoders part '!!' differently"):
        warn_of_cuts([first, second], "wow!! a tree")


@pytest.mark.parametrize("vocabulary", ["t5", "clip"])
def test_words_of_a_prompt_as_users_write_it(vocabulary: str) -> None:
    tokenizer = real(vocabulary)
    prompt = 'A T-shirt, a "hot dog" (red), the ship\'s café; 日 a houseboat and a red house!!'
    ids = tokenizer(prompt).input_ids
    positions = range(1, len(ids) - 1) if vocabulary == "clip" else range(len(ids) - 1)
    text, words = read_words(tokenizer, prompt, ids, positions)
    assert text == prompt
    found = [word.text for word in words]
    assert "".join(found) == prompt.replace(" ", "")
    assert {"T", "shirt", "hot", "dog", "red", "ship", "'s", "café", "日", "houseboat", "house"} <= set(found)
    assert [place for word in words for place in word.positions] == list(positions)


def test_positions_in_a_prompt_with_marks_and_foreign_letters() -> None:
    t5, clip = real("t5"), real("clip")
    pieces = t5.convert_ids_to_tokens(t5("(house) and 'red house', a houseboat").input_ids)
    places = t5_positions(t5, "(house) and 'red house', a houseboat", "house", 77)
    assert [pieces[place] for place in places] == ["house", "▁house"]
    with pytest.raises(cl.ConceptError, match="no token that the T5 tokenizer knows"):
        t5_positions(t5, "a 房子 and a tree", "房子", 77)
    assert clip_positions(clip, "a 房子!! and a tree", "tree") == (len(clip("a 房子!! and a tree").input_ids) - 2,)
    assert clip_positions(clip, "a houseboat", "houseboat") == (2, 3)
    with pytest.raises(cl.ConceptError, match="is not in the prompt"):
        clip_positions(clip, "a houseboat", "house")


@pytest.mark.parametrize("text", ["a \ud800 house", "a house\x00"])
def test_what_no_tokenizer_takes(text: str) -> None:
    session = cl.load(flux_pipeline())
    with pytest.raises(cl.ConceptError, match=r"has the character U\+(D800|0000), which is no text"):
        session.generate("a house", [text])
    with pytest.raises(cl.RecipeError, match=r"the prompt .* has the character U\+(D800|0000)"):
        session.generate(text, ["house"])
    with pytest.raises(cl.RecipeError, match=r"the negative_prompt .* has the character"):
        session.generate("a house", ["house"], negative_prompt=text)
    with pytest.raises(cl.RecipeError, match=r"the prompt .* has the character"):
        session.read("nowhere.png", prompt=text)
