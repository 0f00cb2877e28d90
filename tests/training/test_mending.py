"""What the picture model of `training/train_neutral.py` learns from: captions with something wrong in them."""

import numpy as np
import pytest
import torch

from conceptlens.bench.datasets.moving import MOTIONS, films
from conceptlens.bench.datasets.scenes import Scene, make_scene
from mending import CONTENT, FILM_CONTENT, KINDS, MASK, TINTS, corrupt, mention, mention_film
from text import FILM_WORDS, build_t5_tokenizer


@pytest.fixture(scope="module")
def pictures() -> list[Scene]:
    return [make_scene(seed) for seed in range(200)]


def test_captions_are_true(pictures: list[Scene]) -> None:
    rng = np.random.default_rng(0)
    for scene in pictures:
        caption = mention(scene, rng).replace(",", " ").split()
        colours = {o.colour for o in scene.objects}
        assert caption
        for word in set(caption) & set(CONTENT):
            assert word in scene.concepts or word in colours or word == scene.sky


def test_mending_restores_the_caption(pictures: list[Scene]) -> None:
    """Changed words replaced by the true ones and left-out words put back give the caption again."""
    tokenizer, rng = build_t5_tokenizer(), np.random.default_rng(1)
    true = [mention(scene, rng) for scene in pictures]
    corrupted = corrupt(true, pictures, tokenizer, rng)
    mended = []
    for tokens, words, left_out in zip(corrupted.tokens, corrupted.words, corrupted.left_out, strict=True):
        caption = []
        for token, word, tint in zip(tokens.tolist(), words.tolist(), left_out.tolist(), strict=True):
            caption += [TINTS[tint]] if tint >= 0 else []
            if token > 1:
                caption.append(CONTENT[word] if word >= 0 else str(tokenizer.convert_ids_to_tokens(token)).strip("▁"))
        mended.append(caption)
    expected = [c.replace(",", " ,").replace("an ", "a ").split() for c in true]
    restored = [m == e for m, e in zip(mended, expected, strict=True)]
    # A word left out before a noun that is itself masked or swapped is not asked for.
    whole = [bool((w >= 0).any() and not c.any()) for w, c in zip(corrupted.words, corrupted.changed, strict=True)]
    assert sum(whole) > 40
    assert all(r for r, w in zip(restored, whole, strict=True) if w)


def test_swapped_nouns_are_not_in_the_picture(pictures: list[Scene]) -> None:
    tokenizer, rng = build_t5_tokenizer(), np.random.default_rng(2)
    corrupted = corrupt([mention(scene, rng) for scene in pictures], pictures, tokenizer, rng)
    swapped = corrupted.changed & (corrupted.tokens != MASK)
    said = tokenizer.convert_ids_to_tokens(corrupted.tokens[swapped].tolist())
    owner = torch.arange(len(pictures))[:, None].expand_as(swapped)[swapped].tolist()
    nouns = [(row, word.strip("▁")) for row, word in zip(owner, said, strict=True) if word.strip("▁") not in TINTS]
    assert len(nouns) > 40
    assert not [word for row, word in nouns if word in pictures[row].concepts]


def test_padding_is_hidden_from_words_of_the_chosen_rows(pictures: list[Scene]) -> None:
    tokenizer, rng = build_t5_tokenizer(), np.random.default_rng(3)
    corrupted = corrupt(["house", "house"], pictures[:2], tokenizer, rng)
    bias = corrupted.attention_bias(torch.tensor([True, False]), image=4)
    assert bias.shape == (2, 1, 36, 36)
    assert (bias[0, 0, 0] < 0).tolist() == [False] + [True] * 31 + [False] * 4
    assert not bias[0, 0, 32:].any()
    assert not bias[1].any()


def test_captions_of_films_lose_words_that_say_how_things_move() -> None:
    """Changed words are known by the film; those that move are masked or swapped for others of their kind."""
    tokenizer, rng = build_t5_tokenizer(FILM_WORDS), np.random.default_rng(4)
    shown = list(films("validation", 150))
    corrupted = corrupt([mention_film(film, rng) for film in shown], shown, tokenizer, rng)
    moved = corrupted.words >= FILM_CONTENT.index(MOTIONS[0])
    assert (moved & corrupted.changed).sum() > 40
    assert (moved & ~corrupted.changed).sum() > 10
    for film, words in zip(shown, corrupted.words, strict=True):
        true = {word for item in film.objects for word in (item.noun, item.colour, *item.motion.split())}
        assert {FILM_CONTENT[w] for w in words.tolist() if w >= 0} <= true | {film.sky, *film.concepts}
    swapped = corrupted.changed & moved & (corrupted.tokens != MASK)
    said = tokenizer.convert_ids_to_tokens(corrupted.tokens[swapped].tolist())
    assert swapped.any()
    for word, true in zip(said, corrupted.words[swapped].tolist(), strict=True):
        assert KINDS[word.strip("▁")] == KINDS[FILM_CONTENT[true]]
        assert word.strip("▁") != FILM_CONTENT[true]
