"""Metrics of films against small cases that can be counted by hand, and against their definitions in loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from conceptlens.bench.film_metrics import boundary, contour, frame_ious, identities, of_frames, region


def box(top: int, left: int, height: int, width: int, size: int = 20) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def boundary_in_loops(found: np.ndarray, truth: np.ndarray, tolerance: float) -> float:
    def edges(mask: np.ndarray) -> list[tuple[int, int]]:
        rows, cols = mask.shape
        return [
            (r, c)
            for r in range(rows)
            for c in range(cols)
            if any(
                mask[r, c] != mask[min(r + down, rows - 1), min(c + across, cols - 1)]
                for down, across in ((0, 1), (1, 0), (1, 1))
            )
        ]

    reach = math.ceil(tolerance * math.hypot(*found.shape))
    mine, theirs = edges(found), edges(truth)
    if not mine or not theirs:
        return float(not mine and not theirs)

    def share(of: list[tuple[int, int]], near: list[tuple[int, int]]) -> float:
        return sum(any(math.dist(one, other) <= reach for other in near) for one in of) / len(of)

    precision, recall = share(mine, theirs), share(theirs, mine)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def test_regions() -> None:
    assert region(box(0, 0, 4, 4), box(0, 2, 4, 4)) == 8 / 24
    assert region(box(0, 0, 4, 4), box(10, 10, 4, 4)) == 0
    assert region(box(0, 0, 0, 0), box(0, 0, 0, 0)) == 1


@pytest.mark.parametrize("tolerance", [0.008, 0.05, 0.12])
def test_boundaries_are_those_of_the_definition(tolerance: float) -> None:
    rng = np.random.default_rng(3)
    masks = [box(3, 4, 8, 9), box(4, 4, 8, 9), box(3, 7, 8, 9), box(12, 0, 8, 5), rng.random((20, 20)) > 0.6]
    for found, truth in itertools.product(masks, masks):
        assert boundary(found, truth, tolerance) == pytest.approx(boundary_in_loops(found, truth, tolerance))


def test_boundaries_at_the_ends() -> None:
    full, empty = box(3, 4, 8, 9), box(0, 0, 0, 0)
    assert boundary(full, full) == 1
    assert boundary(empty, empty) == 1
    assert boundary(full, empty) == boundary(empty, full) == 0
    assert boundary(full, box(4, 4, 8, 9)) == 1  # a pixel off, which the tolerance, rounded up, allows
    assert boundary(full, box(6, 4, 8, 9)) < 0.8
    assert contour(box(2, 2, 2, 2, 5)).sum() == 8


def lane(*frames: str) -> np.ndarray:
    """Labels of frames one pixel high: "1.2" has object 1, nothing, object 2."""
    return np.array([[[0 if mark == "." else int(mark) for mark in frame]] for frame in frames])


TRUTH = lane("1..2", "1..2", ".12.", ".12.")


def test_tracks_that_keep_to_their_objects() -> None:
    made = identities(lane("7..3", "7..3", ".73.", ".73."), TRUTH)
    assert (made.switches, made.idf1, made.matched) == (0, 1, 1)


def test_tracks_that_swap_are_two_switches() -> None:
    made = identities(lane("1..2", "1..2", ".21.", ".21."), TRUTH)
    assert (made.switches, made.matched) == (2, 1)
    assert made.idf1 == 0.5  # of 8 and 8 boxes, the best pairing has 4


def test_a_track_that_is_lost_and_comes_back_under_another_number_is_one_switch() -> None:
    made = identities(lane("1..2", "1...", ".13.", ".13."), TRUTH)
    assert made.switches == 1
    assert made.matched == 7 / 8
    assert made.idf1 == pytest.approx(2 * (4 + 2) / (7 + 8))


def test_a_track_that_is_lost_and_comes_back_as_itself_is_none() -> None:
    made = identities(lane("1..2", "1...", ".12.", ".12."), TRUTH)
    assert made.switches == 0
    assert made.idf1 == pytest.approx(2 * 7 / 15)


def test_of_two_tracks_that_are_as_near_the_last_one_is_held() -> None:
    made = identities(lane("22", "12", "12"), lane("11", "11", "11"))
    assert (made.switches, made.matched) == (0, 1)


def test_a_track_is_at_an_object_from_an_overlap_of_half() -> None:
    truth = lane("11..")
    assert identities(lane("1..."), truth).matched == 1
    assert identities(lane(".111"), truth).matched == 0
    assert frame_ious(lane(".111")[0], truth[0], 1, 1).tolist() == [[0.25]]
    nothing = identities(lane("...."), truth)
    assert (nothing.switches, nothing.idf1, nothing.matched) == (0, 0, 0)
    assert identities(lane("...."), lane("....")).idf1 == 1


def test_frames_without_a_concept_have_no_figure() -> None:
    truth, found = lane("1..", ".1.", "..."), lane("1..", "1..", "...")
    made = of_frames(region, found, truth, [1, 0])
    np.testing.assert_array_equal(made, [[1, 0, np.nan], [1, 1 / 3, 1]])
