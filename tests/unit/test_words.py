"""Which words a prompt or a vocabulary offers."""

from __future__ import annotations

import pytest

from conceptlens.values.example import suggested_prompt
from conceptlens.values.words import COMMON, content_words, ranked_words


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a red house and a tree under the sun", ["house", "tree", "sun"]),
        ("A Dog, a dog; and a t-shirt!", ["dog", "t-shirt"]),
        ("the and of", []),
        ("a house - a tree -- and -moss-", ["house", "tree", "moss"]),
        ("x" * 41 + " boat", ["boat"]),
        ("ein Häuschen", ["ein", "häuschen"]),
    ],
)
def test_words_of_a_prompt_that_name_things(prompt: str, words: list[str]) -> None:
    assert content_words(prompt) == words


def test_colours_and_sizes_are_words_too_where_they_are_wanted() -> None:
    assert content_words("a big red house", qualities=True) == ["big", "red", "house"]


def test_several_prompts_and_none() -> None:
    assert content_words(["the ship's sail", "a sail and the dogs' bed"]) == ["ship", "sail", "dogs", "bed"]
    assert content_words(None) == []


def test_a_small_vocabulary_is_asked_for_its_things() -> None:
    assert ranked_words(("red", "house", "a", "tree", "under")) == ("house", "tree")
    assert ranked_words(("red", "green")) == ("red", "green")
    assert ranked_words(None) == COMMON
    assert len(set(COMMON)) == len(COMMON) > 90


@pytest.mark.parametrize(
    ("vocabulary", "prompt"),
    [
        (None, "a cat on a sofa in front of a window"),
        (["sun", "boat", "sea", "red", "a"], "a sun and a boat"),
        (["sea", "sky"], "sea"),
    ],
)
def test_a_suggested_prompt_is_of_words_that_the_model_knows(vocabulary: list[str] | None, prompt: str) -> None:
    assert suggested_prompt(vocabulary, ["sea", "sky"]) == prompt
