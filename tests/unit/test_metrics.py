"""Metrics against scikit-learn, with ties and degenerate masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from sklearn.metrics import accuracy_score, average_precision_score, jaccard_score, roc_auc_score

from conceptlens.bench.counts import ClassCounts
from conceptlens.bench.metrics import (
    average_precision,
    bootstrap_interval,
    kendall_tau,
    percentile_interval,
    roc_auc,
)


@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_ranking_metrics_equal_scikit_learn_with_ties(seed: int, size: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, size) / levels
    truth = rng.random(size) < 0.4
    truth[:2] = [True, False]
    assert average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
    assert roc_auc(scores, truth) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


@given(st.integers(0, 10_000), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_iou_and_accuracy_equal_scikit_learn(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    predicted, labels = rng.integers(0, count, (2, 6, 7))
    seen = sorted(set(predicted.ravel()) | set(labels.ravel()))
    expected = jaccard_score(labels.ravel(), predicted.ravel(), labels=seen, average="macro")
    counts = ClassCounts.of(predicted, labels, count)
    assert counts.iou() == pytest.approx(expected, abs=1e-12)
    assert counts.accuracy() == pytest.approx(accuracy_score(labels.ravel(), predicted.ravel()), abs=1e-12)


def test_an_interval_is_the_middle_of_the_draws() -> None:
    draws = np.append(np.random.default_rng(0).permutation(101).astype(float), np.nan)
    assert percentile_interval(draws) == pytest.approx((2.5, 97.5))
    assert percentile_interval(draws, 0.8) == pytest.approx((10.0, 90.0))


def test_degenerate_masks_have_no_ranking() -> None:
    scores = np.array([0.1, 0.2])
    assert math.isnan(average_precision(scores, np.array([False, False])))
    assert math.isnan(roc_auc(scores, np.array([True, True])))
    assert average_precision(scores, np.array([True, True])) == 1.0
    assert roc_auc(np.ones(4), np.array([True, False, True, False])) == 0.5


def test_bootstrap_interval_covers_the_mean() -> None:
    values = np.random.default_rng(0).random(300)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(300), rel=0.15)
    assert bootstrap_interval(values) == (low, high)


def test_kendalls_tau_is_scipys() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, 6, (20, 9)).astype(float), rng.integers(0, 6, 9).astype(float)
    expected = [np.asarray(kendalltau(row, theirs))[0] for row in ours]
    np.testing.assert_allclose(kendall_tau(ours, theirs), expected)
    assert np.isnan(kendall_tau(np.ones(9), theirs))
