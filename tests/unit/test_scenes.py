"""The generated dataset: exact masks, pure functions of a seed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from conceptlens.bench.datasets.scenes import (
    COLOURS,
    CONCEPTS,
    GROUNDS,
    NOUNS,
    SPLITS,
    describe,
    make_scene,
    scenes,
)


def test_scenes_are_a_function_of_their_seed() -> None:
    one, two, other = make_scene(3), make_scene(3), make_scene(4)
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.labels, two.labels)
    assert one.caption == two.caption
    assert not np.array_equal(one.image, other.image)


def test_every_pixel_belongs_to_one_visible_concept() -> None:
    for scene in scenes("validation", 40):
        masks = np.stack([scene.mask(name) for name in scene.concepts])
        assert (masks.sum(0) == 1).all()
        assert masks.any(axis=(1, 2)).all()
        assert set(scene.concepts) <= set(CONCEPTS)
        assert 1 <= len(scene.objects) <= 4
        assert scene.concepts[-1] in GROUNDS


def test_masks_follow_the_colours() -> None:
    """A mask's pixels look like the object's colour far more often than the rest of the picture does."""
    scene = make_scene(11, nouns=("house",))
    colour = np.array(COLOURS[scene.objects[0].colour], float)
    near = np.abs(scene.image - colour).max(-1) < 60
    mask = scene.mask("house")
    assert near[mask].mean() > 5 * near[~mask].mean()


def test_splits_do_not_overlap() -> None:
    firsts = sorted(SPLITS.values())
    assert all(b - a >= 10_000_000 for a, b in pairwise(firsts))
    assert next(scenes("test", 1)).seed == SPLITS["test"]


def test_captions_are_full_partial_single_and_empty() -> None:
    rng = np.random.default_rng(0)
    scene = make_scene(5)
    said = [describe(scene, rng) for _ in range(400)]
    assert 0.05 < np.mean([s == "" for s in said]) < 0.15
    assert any(s in CONCEPTS for s in said)
    assert any(o.colour in s for s in said for o in scene.objects)
    named = [s for s in said if all(o.noun in s.replace(",", "").split() for o in scene.objects)]
    assert len(named) > 200


def test_all_nouns_and_colours_occur() -> None:
    drawn = [item for scene in scenes("train", 150) for item in scene.objects]
    assert {item.noun for item in drawn} == set(NOUNS)
    assert {item.colour for item in drawn} == set(COLOURS)


def test_an_unknown_noun_is_named() -> None:
    with pytest.raises(ValueError, match="no drawing of dragon"):
        make_scene(0, nouns=("dragon",))
    with pytest.raises(ValueError, match="each noun can be drawn once; got house, house"):
        make_scene(0, nouns=("house", "house"))
