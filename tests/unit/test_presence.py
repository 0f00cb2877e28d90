"""Presence scores: invariances, known cases, and the calibration against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

import conceptlens as cl
from conceptlens.bench.datasets.scenes import CONCEPTS, make_scene, scenes
from conceptlens.maps.image_maps import chance_text
from conceptlens.presence import Calibration, add_presence, calibrate, presence, standing
from conceptlens.session import Session


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(count, 12, 12))


def slow_standing(own: np.ndarray, nulls: np.ndarray, patches: int) -> float:
    """Patch by patch, from the definition."""
    unit = np.std([null - nulls.mean(axis=0) for null in nulls])
    odds = [
        np.exp(own[y, x] / unit) / np.mean([np.exp(null[y, x] / unit) for null in nulls])
        for y in range(own.shape[0])
        for x in range(own.shape[1])
    ]
    return float(np.mean(np.log(sorted(odds)[-patches:])))


def test_it_is_the_log_odds_of_the_best_patches() -> None:
    own, nulls = noise(9)[0], noise(9)[1:]
    assert standing(own, nulls) == pytest.approx(slow_standing(own, nulls, round(0.02 * 144)))


def test_a_bump_stands_out_and_noise_does_not() -> None:
    own, nulls = noise(22)[0], noise(22)[1:]
    bump = own.copy()
    bump[2:5, 2:5] += 6
    assert standing(bump, nulls) > standing(own, nulls) + 3
    assert standing(nulls.mean(axis=0), nulls) < 0.5


def test_what_all_words_share_and_the_scale_do_not_matter() -> None:
    own, nulls = noise(1)[0], noise(15)[1:]
    shared = 50 * np.random.default_rng(5).normal(size=(12, 12))
    assert standing(own + shared, nulls + shared) == pytest.approx(standing(own, nulls))
    assert standing(1000 * own, 1000 * nulls) == pytest.approx(standing(own, nulls))


def test_a_word_is_judged_by_itself(demo: Session) -> None:
    record = demo.read(Image.fromarray(make_scene(8).image))
    (alone,) = presence(demo, record, ["house"])
    together = presence(demo, record, ["moon", "house", "car"])[1]
    assert together.concept == "house"
    assert together.score == pytest.approx(alone.score, abs=1e-3)
    assert presence(demo, record, ["house"], calibration=Calibration(1.0, 0.0))[0].chance == pytest.approx(
        1 / (1 + np.exp(-alone.score)), rel=1e-6
    )


def test_a_word_is_not_held_against_itself(demo: Session) -> None:
    record = demo.read(Image.fromarray(make_scene(8).image))
    others = [name for name in CONCEPTS[:6] if name != "sun"]
    among, without = (presence(demo, record, ["sun"], nulls=nulls)[0].score for nulls in (CONCEPTS[:6], others))
    assert among == pytest.approx(without, abs=1e-3)


def test_null_concepts_must_be_several(demo: Session) -> None:
    record = demo.read(Image.fromarray(make_scene(8).image))
    with pytest.raises(cl.ConceptError, match="'sun' needs 5 null concepts beside itself; got sun, moon"):
        presence(demo, record, ["sun"], nulls=CONCEPTS[:5])


def test_calibration_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    there = rng.random(400) < 0.3
    scores = rng.normal(size=400) * 3 + 5 * there
    own = calibrate(scores, there)
    theirs = LogisticRegression(C=1e6, tol=1e-10).fit(scores[:, None], there)
    assert own.slope == pytest.approx(float(theirs.coef_[0, 0]), rel=1e-2)
    assert own.intercept == pytest.approx(float(theirs.intercept_[0]), rel=1e-2)


def test_separable_scores_and_extreme_ones_stay_finite() -> None:
    curve = calibrate(np.array([-2.0, -1.0, 1.0, 2.0]), np.array([False, False, True, True]))
    assert 0 <= curve.chance(-1e9) < 0.5 < curve.chance(1e9) <= 1


def test_calibration_needs_both_kinds() -> None:
    with pytest.raises(cl.ConceptError, match="needs concepts that are there"):
        calibrate(np.array([1.0, 2.0]), np.array([True, True]))


@pytest.mark.filterwarnings("ignore:demo was never trained")
def test_objects_and_grounds_of_unseen_scenes_are_told(demo: Session) -> None:
    """Of scenes that the curves were not fitted on; a score alone would have every ground the wrong way round."""
    right = wrong = 0
    for scene in scenes("validation", 6):
        record = demo.read(Image.fromarray(scene.image), seed=scene.seed)
        maps = add_presence(demo, demo.probe(record, CONCEPTS), record)
        assert maps.presence is not None
        assert maps.presence["sky"] is None, "the sky was in every picture, so nothing is known of its absence"
        for name in CONCEPTS:
            if name != "sky":
                hit = ((maps.presence[name] or 0.0) > 0.5) == (name in scene.concepts)
                right, wrong = right + hit, wrong + (not hit)
    assert right + wrong == 6 * 17
    assert wrong <= 3


@pytest.mark.filterwarnings("ignore:demo was never trained")
def test_what_cannot_be_said_is_not_said(demo: Session) -> None:
    picture = Image.fromarray(make_scene(8).image)
    (unknown,) = presence(demo, demo.read(picture), ["dragon"])
    assert unknown.chance is None
    for other in (demo.read(picture, noise=0.5), demo.read(picture, prompt="a house"), demo.read(picture, layers=(1,))):
        with pytest.warns(UserWarning, match="no chances of presence"):
            found = presence(demo, other, ["house"])
        assert found[0].chance is None, "the curves are of other readings"
    assert presence(demo, demo.read(picture), ["house"], nulls=CONCEPTS[:6])[0].chance is None


def test_a_record_that_does_not_suit_is_read_again(demo: Session) -> None:
    scene = make_scene(8)
    prompted = demo.read(Image.fromarray(scene.image), prompt="a moon", noise=0.6)
    plain = demo.probe(demo.read(Image.fromarray(scene.image)), ["house", "moon"])
    found = add_presence(demo, demo.probe(prompted, ["house", "moon"]), prompted).presence
    assert found == add_presence(demo, plain).presence
    assert found is not None
    assert {name: chance_text(chance)[:2] for name, chance in found.items()} == {
        name: "ye" if name in scene.concepts else "no" for name in ("house", "moon")
    }


def test_chances_in_the_table(demo: Session) -> None:
    maps = demo.probe(demo.read(Image.fromarray(make_scene(8).image)), ["house", "sky"])
    assert "in the image?" not in maps.report()
    shown = add_presence(demo, maps).report()
    assert "in the image?" in shown
    assert "cannot say" in shown
    assert [chance_text(c) for c in (None, 0.001, 0.3, 0.7, 0.999)] == [
        "cannot say", "no (< 1%)", "no (30%)", "yes (70%)", "yes (> 99%)",
    ]  # fmt: skip
