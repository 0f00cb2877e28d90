"""Concepts followed through a film: matches between frames, instances linked by them, files of tracks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conceptlens.ops import tracks as ops
from oracles import tracks as oracle


def random_heads(frames: int, patches: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    query, key = (2 * torch.randn(2, 3, frames * patches, 4, generator=generator) for _ in range(2))
    return query, key


def test_matches_are_the_attention_between_two_frames() -> None:
    query, key = random_heads(4, 6)
    found = ops.frame_matches(query, key, (4, 2, 3), reach=2)
    assert found.shape == (2, 2, 4, 6, 6)
    for batch in range(2):
        for first, gap in ((0, 1), (2, 1), (0, 2), (1, 2)):
            expected = oracle.matches(query[batch].numpy(), key[batch].numpy(), 4, 6, first, first + gap)
            np.testing.assert_allclose(found[batch, gap - 1, first].numpy(), expected, atol=1e-6)
    assert found[:, 0, 3].abs().max() == 0  # no frame follows the last
    assert found[:, 1, 2:].abs().max() == 0


def test_one_frame_has_no_matches() -> None:
    query, key = random_heads(1, 6)
    assert ops.frame_matches(query, key, (1, 2, 3)).shape == (2, 0, 1, 6, 6)


def test_large_frames_are_matched_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key = random_heads(2, 15)
    fine = ops.frame_matches(query, key, (2, 3, 5))[:, 0, 0]
    monkeypatch.setattr(ops, "MOST_CELLS", 6)
    assert ops.cells_of(3, 5) == (2, 3)
    coarse = ops.frame_matches(query, key, (2, 3, 5))[:, 0, 0]
    block = [(r // 2) * 3 + c // 2 for r in range(3) for c in range(5)]
    for here, there in np.ndindex(6, 6):
        looking, looked_at = ([p for p in range(15) if block[p] == cell] for cell in (here, there))
        expected = fine[:, looking][:, :, looked_at].sum(2).mean(1)
        torch.testing.assert_close(coarse[:, here, there], expected)
    mask = np.zeros((6, 10), bool)
    mask[:4, :2] = True  # the first column of patches in the first two rows: half of the first cell
    assert ops.shares(mask, 3, 5).tolist() == [0.5, 0, 0, 0, 0, 0]
    assert ops.on_patches(torch.arange(6.0), 3, 5).tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]


def test_a_blur_keeps_the_sum_of_a_match() -> None:
    found = torch.rand(2, 5, 12, generator=torch.Generator().manual_seed(1))
    blurred = ops.low_pass(found, (3, 4))
    for index in np.ndindex(2, 5):
        np.testing.assert_allclose(blurred[index].numpy(), oracle.blurred(found[index].numpy(), 3, 4), atol=1e-6)
    assert ops.low_pass(torch.zeros(1, 12), (3, 4)).abs().max() == 0


def test_positions_are_means_around_the_peak() -> None:
    found = torch.rand(7, 12, generator=torch.Generator().manual_seed(2))
    for window in (0, 1, 2):
        places = ops.matched_positions(found, (3, 4), window)
        expected = [oracle.position(row.numpy(), 3, 4, window) for row in found]
        np.testing.assert_allclose(places.numpy(), expected, atol=1e-5)


def test_pairs_have_the_greatest_sum_of_gains() -> None:
    assert ops.assigned(np.array([[0.9, 0.8], [0.8, 0.1]]), 0.2) == [(0, 1), (1, 0)]
    assert ops.assigned(np.array([[0.9, 0.8], [0.19, 0.1]]), 0.2) == [(0, 0)]
    assert ops.assigned(np.array([[0.1, 0.15]]), 0.2) == []
    assert ops.assigned(np.zeros((0, 3)), 0.2) == []
