"""Ops against slow, obvious re-implementations of the paper's equations, and their properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptlens.ops.accumulate import ScoreAccumulator
from conceptlens.ops.attention import concept_attention
from conceptlens.ops.grids import check_finite, resize, threshold_level, unit_range
from conceptlens.ops.spaces import cross_similarity, normalize_concepts, reduce_heads, vector_similarity
from conceptlens.values.errors import ScoreError
from oracles.concept_attention import attention_by_loops, scores_by_loops


def heads(seed: int, tokens: int) -> torch.Tensor:
    return torch.randn(2, 3, tokens, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("self_", [True, False])
@pytest.mark.parametrize("isolate", [True, False])
def test_attention_matches_the_loops(cross: bool, self_: bool, isolate: bool) -> None:
    q, k, v, image_k, image_v = heads(0, 5), heads(1, 5), heads(2, 5), heads(3, 7), heads(4, 7)
    made = concept_attention(q, k, v, image_k, image_v, cross=cross, self_=self_, isolate=isolate)
    slow = attention_by_loops(q, k, v, image_k, image_v, cross, self_, isolate)
    torch.testing.assert_close(made, slow, rtol=1e-10, atol=1e-12)


def test_isolated_concepts_do_not_depend_on_the_others() -> None:
    q, k, v, image_k, image_v = heads(0, 5), heads(1, 5), heads(2, 5), heads(3, 7), heads(4, 7)
    together = concept_attention(q, k, v, image_k, image_v, isolate=True)
    alone = concept_attention(q[:, :, :1], k[:, :, :1], v[:, :, :1], image_k, image_v)
    torch.testing.assert_close(together[:, :1], alone, rtol=1e-12, atol=1e-12)
    mixed = concept_attention(q, k, v, image_k, image_v)
    assert not torch.allclose(mixed[:, :1], alone, rtol=1e-3)


def test_scores_match_the_loops() -> None:
    concept, image = torch.randn(1, 3, 6, dtype=torch.float64), torch.randn(1, 5, 6, dtype=torch.float64)
    made = reduce_heads(vector_similarity(concept, image), softmax=True, temperature=2.0)
    torch.testing.assert_close(made, scores_by_loops(concept, image, 2.0), rtol=1e-12, atol=1e-12)


def test_bfloat16_vectors_are_accumulated_in_float32() -> None:
    concept = torch.full((1, 1, 4096), 1.0, dtype=torch.bfloat16)
    image = torch.full((1, 1, 4096), 1.0, dtype=torch.bfloat16)
    image[..., 0] = 2.0
    assert vector_similarity(concept, image).item() == 4097.0


def test_cross_softmax_is_per_head_before_the_mean() -> None:
    raw = cross_similarity(heads(1, 3), heads(2, 5))
    made = reduce_heads(raw, softmax=True, temperature=1.0)
    torch.testing.assert_close(made, torch.stack([raw[:, h].softmax(1) for h in range(3)]).mean(0))
    assert not torch.allclose(made, raw.mean(1).softmax(1))


@given(st.integers(1, 6), st.integers(1, 9), st.floats(0.1, 50))
@settings(max_examples=30, deadline=None)
def test_softmax_over_concepts_sums_to_one(concepts: int, image: int, temperature: float) -> None:
    raw = 10 * torch.randn(2, 1, concepts, image)
    made = reduce_heads(raw, softmax=True, temperature=temperature)
    torch.testing.assert_close(made.sum(1), torch.ones(2, image))


def test_normalizations() -> None:
    vectors = torch.randn(2, 4, 6)
    torch.testing.assert_close(normalize_concepts(vectors, "unit").norm(dim=-1), torch.ones(2, 4))
    linear = normalize_concepts(vectors, "linear")
    torch.testing.assert_close(linear.sum(dim=-2), torch.ones(2, 6))
    assert linear.min() >= 0
    assert normalize_concepts(vectors, "none") is vectors
    assert normalize_concepts(torch.ones(1, 3, 2), "linear").isfinite().all()


@given(st.permutations(range(4)))
@settings(max_examples=10, deadline=None)
def test_the_accumulator_does_not_mind_the_order(order: list[int]) -> None:
    parts = [torch.full((1, 2, 3), float(2**i)) for i in range(4)]
    accumulator = ScoreAccumulator()
    for i in order:
        accumulator.add(i, 0, parts[i])
    assert torch.equal(accumulator.mean(), torch.full((1, 2, 3), 15 / 4))
    assert accumulator.parts == {}


def test_an_empty_accumulator_says_so() -> None:
    with pytest.raises(ValueError, match="no scores were added"):
        ScoreAccumulator().mean()


def test_nearest_resize_keeps_the_argmax() -> None:
    scores = torch.randn(3, 4, 5)
    big = resize(scores, 8, 10, "nearest").argmax(0)
    assert torch.equal(big[::2, ::2], scores.argmax(0))


@pytest.mark.parametrize("grid", [(16, 16), (7, 9), (1, 1)])
def test_bilinear_resize_adds_no_noise(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    constant = torch.rand(40)[:, None, None].expand(-1, *grid)
    assert torch.equal(resize(constant, 97, 113), constant[:, :1, :1].expand(-1, 97, 113))
    # As einsum leaves maps that are the same for every concept: channels last.
    equal = torch.rand(*grid, 1).expand(-1, -1, 19).contiguous().permute(2, 0, 1)
    big = resize(equal, 97, 113)
    assert torch.equal(big, big[:1].expand(19, -1, -1))
    assert big.min() >= equal.min()
    assert big.max() <= equal.max()


def test_scores_that_are_no_numbers_are_refused() -> None:
    whole = torch.zeros(2, 3)
    assert check_finite(whole) is whole
    for wrong in (math.nan, math.inf, -math.inf):
        scores = torch.zeros(2, 3)
        scores[1, 2] = wrong
        with pytest.raises(ScoreError, match="NaN or infinity in 1 of 6 scores, .*float32"):
            check_finite(scores)


def test_bilinear_resize_keeps_the_orientation() -> None:
    scores = torch.zeros(1, 2, 4)
    scores[0, 0, 3] = 1
    big = resize(scores, 20, 40)[0]
    row, column = divmod(int(big.argmax()), 40)
    assert row < 10
    assert column >= 30


def test_thresholds() -> None:
    heat = np.array([[0.0, 0.0, 0.0, 1.0]])
    assert threshold_level(heat, "mean") == 0.25
    assert threshold_level(heat, 0.5) == 0.5
    assert 0 <= threshold_level(heat, "otsu") < 1
    assert threshold_level(np.ones((2, 2)), "otsu") == 1.0
    with pytest.raises(ValueError, match="got 'median'"):
        threshold_level(heat, "median")
    with pytest.raises(ValueError, match=r"got 2\.0"):
        threshold_level(heat, 2.0)


def test_unit_range_of_a_constant_map_is_zero() -> None:
    assert torch.equal(unit_range(torch.full((2, 2), 3.0)), torch.zeros(2, 2))
    assert unit_range(torch.tensor([1.0, 3.0])).tolist() == [0.0, 1.0]
    assert not math.isnan(unit_range(torch.zeros(1)).item())
