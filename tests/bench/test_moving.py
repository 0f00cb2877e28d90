"""Moving storybook scenes: what their masks, instances and captions must agree on."""

import numpy as np
import pytest

from conceptlens.bench.datasets.moving import (
    FRAMES,
    MOTIONS,
    SIZE,
    Film,
    describe_film,
    films,
    make_film,
)
from conceptlens.bench.datasets.scenes import COLOURS, GROUNDS


@pytest.fixture(scope="module")
def some() -> list[Film]:
    return list(films("validation", 120))


def test_films_are_functions_of_their_seeds(some: list[Film]) -> None:
    again = make_film(some[3].seed)
    assert np.array_equal(again.frames, some[3].frames)
    assert again.caption == some[3].caption
    assert not np.array_equal(make_film(some[4].seed).frames, some[3].frames)


def test_every_pixel_has_one_concept_and_objects_have_theirs(some: list[Film]) -> None:
    for film in some:
        assert film.frames.shape == (FRAMES, SIZE, SIZE, 3)
        assert film.labels.shape == film.instances.shape == (FRAMES, SIZE, SIZE)
        assert film.concepts[-2:] == ("sky", film.ground)
        assert film.ground in GROUNDS
        for index, item in enumerate(film.objects):
            seen = film.instances == index
            assert set(film.labels[seen]) == {film.concepts.index(item.noun)}
            assert (seen.sum((1, 2)) >= 0.008 * SIZE * SIZE).sum() > FRAMES // 2
        assert (film.labels[film.instances < 0] >= len(film.concepts) - 2).all()


def test_objects_move_as_their_captions_say(some: list[Film]) -> None:
    moving = [(film, item) for film in some for item in film.objects if item.motion]
    assert len(moving) > 60
    for film, item in moving:
        (x0, y0), (x1, y1) = item.path[0], item.path[-1]
        way = {"left": x1 < x0, "right": x1 > x0, "rises": y1 < y0, "falls": y1 > y0}
        assert way[item.motion.split()[-1]]
        assert f"{item.colour} {item.noun} {item.motion}" in film.caption
        assert set(item.motion.split()) <= set(MOTIONS)
    assert all(len(set(item.path)) == 1 for film in some for item in film.objects if not item.motion)


def test_masks_follow_the_path() -> None:
    """The middle column of what is seen of an object that nothing hides is where its path says."""
    film = make_film(5, nouns=("ball",), crossing=False)
    ball = film.objects[0]
    whole = [frame for frame, (x, _) in enumerate(ball.path) if ball.radius < x < SIZE - ball.radius]
    assert len(whole) > 3
    for frame in whole:
        cols = np.nonzero(film.instances[frame] == 0)[1]
        assert cols.mean() + 0.5 == pytest.approx(ball.path[frame][0], abs=1.0)


def test_crossing_films_can_be_asked_for() -> None:
    assert make_film(0, nouns=("ball", "ball"), crossing=True).crosses
    assert not make_film(0, nouns=("ball", "star"), crossing=False).crosses
    two = make_film(0, nouns=("ball", "ball"), crossing=True)
    assert two.concepts[0] == "ball"
    assert len(two.concepts) == 3
    assert two.objects[0].colour != two.objects[1].colour


def test_captions_are_true(some: list[Film]) -> None:
    rng = np.random.default_rng(0)
    for film in some:
        told = set(describe_film(film, rng).replace(",", " ").split())
        true = {w for o in film.objects for w in (o.noun, o.colour, *o.motion.split())} | {film.sky, *film.concepts}
        assert told & {*COLOURS, *MOTIONS, *GROUNDS} <= true


def test_unknown_nouns_are_refused() -> None:
    with pytest.raises(ValueError, match="no drawing of giraffe"):
        make_film(0, nouns=("giraffe",))
