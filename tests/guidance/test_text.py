"""The text encoder's self-attention, words and groups of words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import CLIPTextModel, CLIPTextModelWithProjection

import conceptlens as cl
from conceptlens.guidance import TSAM, PromptText
from conceptlens.ops.alignment import target_matrix
from conceptlens.watch.prompt_text import TextAttentionReader, clip_text_attention, prompt_positions, read_prompt
from tiny_models import tokenizers
from tiny_sd import text_encoder

PROMPT = "a red house and a blue boat"


def ids_of(*prompts: str) -> torch.Tensor:
    pad: dict[str, Any] = {"padding": "max_length", "max_length": 77, "return_tensors": "pt"}
    return tokenizers()[0](list(prompts), **pad).input_ids


def prompt_text(prompt: str = PROMPT) -> PromptText:
    tokenizer = tokenizers()[0]
    encoder = text_encoder(CLIPTextModel, 12, len(tokenizer))
    ids = ids_of(prompt)
    return read_prompt(prompt, tokenizer, ids[0], [clip_text_attention(encoder, ids)[0]], 0)


@pytest.mark.parametrize("cls", [CLIPTextModel, CLIPTextModelWithProjection])
def test_attention_is_the_encoders_own(cls: type) -> None:
    encoder, ids = text_encoder(cls, 12, 300, layers=3), ids_of(PROMPT, "a sun")
    read = clip_text_attention(encoder, ids)
    encoder.set_attn_implementation("eager")
    with torch.no_grad():
        own = torch.stack(encoder(ids, output_attentions=True).attentions, 1).mean(2)
    torch.testing.assert_close(read, own, atol=1e-5, rtol=0)
    assert read.std() > 0.01


def test_the_encoder_computes_as_ever_and_keeps_no_hooks() -> None:
    encoder, ids = text_encoder(CLIPTextModel, 12, 300), ids_of(PROMPT)

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in encoder.modules())

    with torch.no_grad():
        plain, before = encoder(ids).last_hidden_state, hooks()
        with TextAttentionReader(encoder):
            assert hooks() > before
            read = encoder(ids).last_hidden_state
        assert torch.equal(plain, read)
        assert hooks() == before
        with pytest.raises(RuntimeError, match="stop"), TextAttentionReader(encoder):
            raise RuntimeError("stop")
    assert hooks() == before


def test_only_clip_can_be_read() -> None:
    with pytest.raises(cl.ModelError, match="self-attention of Linear cannot be read"):
        TextAttentionReader(torch.nn.Linear(1, 1))
    with pytest.raises(cl.ConceptlensError, match="has not run"):
        TextAttentionReader(text_encoder(CLIPTextModel, 12, 300)).attention()


def test_the_target_knows_the_prompt_alone() -> None:
    encoder, ids = text_encoder(CLIPTextModel, 12, 300), ids_of(PROMPT)[0]
    places = prompt_positions(ids, 1)
    assert places == tuple(range(1, 8))
    other = ids.clone()
    other[9:] = torch.randint(2, 200, (68,))
    other[20] = 5
    targets = []
    for row in (ids, other):
        attention = clip_text_attention(encoder, row[None])[0].mean(0)
        targets.append(target_matrix(attention[1:8, 1:8], 4.0))
    assert torch.equal(targets[0], targets[0].tril())
    torch.testing.assert_close(targets[0].sum(1), torch.ones(7), atol=1e-6, rtol=0)
    torch.testing.assert_close(targets[0], targets[1], atol=1e-6, rtol=0)


def test_a_prompt_that_fills_the_encoder() -> None:
    assert prompt_positions(torch.tensor([0, 5, 6, 7]), 1) == (1, 2, 3)
    assert prompt_positions(torch.tensor([0, 5, 1, 1]), 1) == (1,)


def test_words_and_their_pieces() -> None:
    text = prompt_text("a red zebra")
    assert [word for word, _ in text.words] == ["a", "red", "zebra"]
    assert text.words[1] == ("red", (2,))
    assert text.words[2][1] == tuple(range(3, 3 + len("zebra")))
    assert text.tokens[:3] == ("a", "red", "z")
    assert text.find(["zebra", 2]) == ((3, 4, 5, 6, 7), (2,))


def test_a_run_of_words_stands_where_it_stands_side_by_side() -> None:
    text = prompt_text("a blue house and a red house")
    assert text.find(["red house"]) == ((6, 7),)
    assert text.find(["Blue  house", "red house"]) == ((2, 3), (6, 7))
    assert text.find(["house", "house"]) == ((3,), (7,))
    assert text.find(["house", "blue house"]) == ((7,), (2, 3)), "a place is found once where there is another"
    assert text.find(["and a red"]) == ((4, 5, 6),)
    for apart in ("house blue", "blue red", "red house house"):
        with pytest.raises(cl.RecipeError, match="is not in the prompt"):
            text.find([apart])


@pytest.mark.parametrize(
    ("prompt", "word", "places"),
    [
        ("a houseboat, a house", "house", (8,)),
        ("a house.", "house", (2,)),
        ("a 'house' (red)", "house", (3,)),
        ("a 'house' (red)", "red", (6,)),
        ("a red-blue house", "blue", (4,)),
        ("a red-blue house", "red-blue house", (2, 3, 4, 5)),
        ("the House's tree", "house", (2,)),
        ("the house's tree", "house's tree", (2, 3, 4, 5)),
        ("a big red house, a red house", "red house", (3, 4)),
    ],
)
def test_marks_capitals_and_words_inside_other_words(prompt: str, word: str, places: tuple[int, ...]) -> None:
    assert prompt_text(prompt).find([word]) == (places,)


def test_an_unknown_mark_does_not_end_the_prompt() -> None:
    """The tiny vocabulary has no "!" and no "é", and its mark for those is the end of text."""
    text = prompt_text("a red house! and a tree")
    assert text.positions == tuple(range(1, 8))
    assert text.find(["house", "tree"]) == ((3,), (7,))
    cafe = prompt_text("a café and a tree")
    assert cafe.words[1] == ("café", (2, 3, 4, 5, 6))
    assert cafe.find(["café", "tree"]) == ((2, 3, 4, 5, 6), (9,))
    assert prompt_positions(torch.tensor([0, 5, 1, 6, 1, 9, 9]), 1, 9) == (1, 2, 3)
    assert prompt_positions(torch.tensor([0, 5, 9, 1, 9, 9]), 1, 9) == (1, 2)


def test_words_that_the_encoder_cuts() -> None:
    text = prompt_text("a ship's red-brick house, the ship's 3D map")
    assert [word for word, _ in text.words[:3]] == ["a", "ship", "'s"]
    ship = len("ship")
    assert text.find(["ship's"]) == (tuple(range(2, 2 + ship + 2)),)
    first, second = text.find(["Ship's", "ship's"])
    assert first < second
    for word, run in (("red-brick", ["red", "-", "brick"]), ("3d", ["3", "D"])):
        spelled = [name for name, places in text.words if set(places) <= set(text.find([word])[0])]
        assert spelled == run
    for word in ("redbrick", "brickhouse", "ship's brick", ""):
        with pytest.raises(cl.RecipeError, match="is not in the prompt"):
            text.find([word])


def test_groups_by_adjacency() -> None:
    assert prompt_text().groups(None) == (((2,), (3,)), ((6,), (7,)))
    assert prompt_text("a house, a boat and the sun").groups(None) == (((2,),), ((5,),), ((8,),))
    assert prompt_text().groups([["blue", "boat"], ["red", "house"]]) == (((6,), (7,)), ((2,), (3,)))
    assert prompt_text("a red house and a red boat").groups([["red", "house"], ["red", "boat"]]) == (
        ((2,), (3,)),
        ((6,), (7,)),
    )


BOUND = {"red": ((6,), (7,)), "blue": ((2,), (3,))}


@pytest.mark.parametrize("order", [["red", "blue"], ["blue", "red"]])
def test_groups_bind_the_same_pairs_in_any_order(order: list[str]) -> None:
    text = prompt_text("a blue house and a red house")
    assert text.groups([[color, "house"] for color in order]) == tuple(BOUND[color] for color in order)
    text = prompt_text("a house that is red and a house that is blue")
    first, second = text.find(["house", "house"])
    bound = {"red": (*text.find(["red"]), first), "blue": (*text.find(["blue"]), second)}
    assert text.groups([[color, "house"] for color in order]) == tuple(bound[color] for color in order)


def test_groups_of_one_noun_and_of_equal_words() -> None:
    assert prompt_text("a big red house").groups([["red", "house"], ["big", "house"]]) == (((3,), (4,)), ((2,), (4,)))
    assert prompt_text("a red house, a red house").groups([["red", "house"]] * 2) == (((2,), (3,)), ((6,), (7,)))
    assert prompt_text("a house red boat house").groups([["red", "boat"], ["house"]]) == (((3,), (4,)), ((2,),))
    assert prompt_text("a house, red house").groups([["red house"], ["house"]]) == (((4, 5),), ((2,),))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([["green", "house"]], "'green' is not in the prompt 'a red house and a blue boat'. Its words: a, red, house"),
        ([["house"], []], "groups must be lists of words"),
        (["house", "boat"], "groups must be lists of words"),
    ],
)
def test_wrong_groups(given: list, says: str) -> None:
    with pytest.raises(cl.RecipeError, match=says):
        prompt_text().groups(given)


def test_layers_encoders_and_words_of_the_target() -> None:
    text = prompt_text("a red zebra")
    whole = TSAM(gamma=1).target(text)
    first = TSAM(gamma=1, text_layers=(0,)).target(text)
    last = TSAM(gamma=1, text_layers=(-1,)).target(text)
    assert not torch.allclose(first, last)
    torch.testing.assert_close(whole, target_matrix(text.attention[0].mean(0)))
    merged = TSAM(gamma=1, merge="word").target(text)
    assert merged.shape == (3, 3)
    torch.testing.assert_close(merged.sum(1), torch.ones(3))
    # What the pieces of "zebra" pay to "red" on average, and to each other in sum.
    raw = text.attention[0].mean(0)
    rows = torch.stack([raw[2:, :1].mean(), raw[2:, 1:2].mean(), raw[2:, 2:].sum(1).mean()])
    torch.testing.assert_close(merged[2], rows / rows.sum())


def test_wrong_layers() -> None:
    with pytest.raises(cl.RecipeError, match="text_layers has .*9.*, but the text encoder has 2 layers"):
        TSAM(text_layers=(9,)).target(prompt_text())
