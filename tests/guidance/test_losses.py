"""The losses against figures, against slow oracles, and against their own definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptlens.ops import alignment as _losses
from conceptlens.ops.alignment import TSAMLoss, cosine_matrix, smooth, target_matrix, tsam_loss
from oracles import tsam as oracle

TOKENS = slice(1, 8)
GOLDEN = {
    (1, True): (3.428580682, 1.450710286, 1.391708700),
    (1, False): (3.513977478, 1.503571048, 1.478536690),
    (3, True): (5.060216614, 2.082677061, 1.714334250),
    (3, False): (5.086661678, 2.119902421, 1.777675122),
    (4, True): (5.366376141, 2.189002532, 1.813786707),
    (4, False): (5.389653740, 2.224875111, 1.869131980),
}
KINDS: tuple[TSAMLoss, ...] = ("abs", "cos_rows", "release_default")


@pytest.fixture(scope="module")
def sines() -> tuple[torch.Tensor, torch.Tensor]:
    cross, text = oracle.fixture()
    return torch.from_numpy(cross), torch.from_numpy(text)


def test_the_fixture_is_the_one_that_the_figures_are_of(sines: tuple[torch.Tensor, torch.Tensor]) -> None:
    cross, text = sines
    assert cross[0, 0, 0].item() == pytest.approx(0.499717729, rel=1e-8)
    assert cross[4, 8, 8].item() == pytest.approx(0.008702533, rel=1e-6)
    assert text[3, 1:4].tolist() == pytest.approx([0.05471946, 0.04340409, 0.03112643], abs=1e-8)
    cosines = cosine_matrix(smooth(cross[TOKENS]))
    assert cosines[2, :2].tolist() == pytest.approx([0.32122448, 0.71895098], abs=1e-8)
    similar = _losses.row_normalized(cosines)
    assert similar[2, :3].tolist() == pytest.approx([0.15744944, 0.35239664, 0.49015392], abs=1e-8)
    wanted = target_matrix(text[TOKENS, TOKENS], 3.0)
    assert wanted[2, :3].tolist() == pytest.approx([0.59412867, 0.29651525, 0.10935608], abs=1e-8)


@pytest.mark.parametrize(("gamma", "smoothed"), GOLDEN)
def test_golden_losses(sines: tuple[torch.Tensor, torch.Tensor], gamma: int, smoothed: bool) -> None:
    cross, text = sines
    maps = smooth(cross[TOKENS]) if smoothed else cross[TOKENS]
    wanted = target_matrix(text[TOKENS, TOKENS], float(gamma))
    found = [tsam_loss(maps, wanted, kind).item() for kind in KINDS]
    assert found == pytest.approx(GOLDEN[gamma, smoothed], rel=1e-8)


def test_golden_gradient_and_central_differences(sines: tuple[torch.Tensor, torch.Tensor]) -> None:
    cross, text = sines
    wanted = target_matrix(text[TOKENS, TOKENS], 3.0)
    leaf = cross.clone().requires_grad_(True)
    tsam_loss(smooth(leaf[TOKENS]), wanted).backward()
    assert leaf.grad is not None
    golden: dict[tuple[int, int, int], float] = {
        (3, 5, 1): 0.006996,
        (8, 8, 4): 0.153527,
        (0, 0, 7): 0.210899,
        (15, 2, 3): -0.049810,
    }
    for (y, x, key), value in golden.items():
        assert leaf.grad[key, y, x].item() == pytest.approx(value, abs=6e-7)
        sides = []
        for step in (1e-6, -1e-6):
            moved = cross.clone()
            moved[key, y, x] += step
            sides.append(tsam_loss(smooth(moved[TOKENS]), wanted).item())
        assert leaf.grad[key, y, x].item() == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(2, 12), st.integers(3, 7), st.integers(3, 7), st.integers(0, 2**31), st.sampled_from([1.0, 3.0, 4.0])
)
def test_vectorised_losses_equal_loops_over_pairs(count: int, rows: int, cols: int, seed: int, gamma: float) -> None:
    random = np.random.default_rng(seed)
    maps, text = random.random((count, rows, cols)), random.random((count, count))
    slow = oracle.losses(np.stack([oracle.smooth(m) for m in maps]), oracle.target(text, gamma))
    wanted = target_matrix(torch.from_numpy(text), gamma)
    for kind in KINDS:
        fast = tsam_loss(smooth(torch.from_numpy(maps)), wanted, kind).item()
        assert fast == pytest.approx(slow[kind], abs=1e-10), kind


def test_a_power_without_renormalisation_has_no_gradient(sines: tuple[torch.Tensor, torch.Tensor]) -> None:
    cross, text = sines
    gradients = []
    for wanted in (target_matrix(text[TOKENS, TOKENS]).pow(4), target_matrix(text[TOKENS, TOKENS], 4.0)):
        leaf = cross.clone().requires_grad_(True)
        tsam_loss(smooth(leaf[TOKENS]), wanted).backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad.abs().max().item())
    assert gradients[0] < 1e-12
    assert gradients[1] > 1e-2


def test_small_attention_does_not_underflow() -> None:
    text = torch.tensor([[1e-3, 0, 0], [4e-4, 9e-4, 0], [1e-3, 2e-3, 5e-4]])
    wanted = target_matrix(text, 4.0)
    assert wanted.sum(1).tolist() == pytest.approx([1, 1, 1], abs=1e-6)
    assert wanted[1, 0].item() == pytest.approx(4**4 / (4**4 + 9**4), rel=1e-4)


def test_the_smoothing_kernel() -> None:
    dot = torch.zeros(1, 5, 5)
    dot[0, 2, 2] = 1
    around = smooth(dot)[0]
    assert around[2, 2].item() == pytest.approx(0.331911, abs=1e-6)
    assert around[1, 2].item() == pytest.approx(0.122103, abs=1e-6)
    assert around[1, 1].item() == pytest.approx(0.044919, abs=1e-6)


def test_neglect_is_the_worst_word_at_its_best_place() -> None:
    maps = torch.full((5, 4, 4), 0.1, dtype=torch.float64)
    maps[1, 0, 0] = 0.2  # word 1 owns a corner, word 2 owns nothing
    alone = _losses.neglect(maps, [(1,)], (1, 0.5)).item()
    assert alone == pytest.approx(1 - math.exp(20) / (math.exp(20) + 2 * math.exp(10)), rel=1e-9)
    both = _losses.neglect(maps, [(1,), (2,)], (1, 0.5)).item()
    assert both == pytest.approx(1 - 1 / 3, rel=1e-9)
    # The first and the last position take no part.
    maps[0], maps[-1] = 5, 5
    assert _losses.neglect(maps, [(1,)], (1, 0.5)).item() == pytest.approx(alone, rel=1e-12)


def test_contrast_equals_its_definition() -> None:
    features = torch.randn(5, 7, dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1, 2])
    unit = features / features.norm(dim=1, keepdim=True)
    terms = []
    for i in range(5):
        for j in range(5):
            if i != j and labels[i] == labels[j]:
                scores = [math.exp((unit[i] @ unit[n]).item() / 0.5) for n in range(5) if labels[n] != labels[i]]
                own = math.exp((unit[i] @ unit[j]).item() / 0.5)
                terms.append(-math.log(own / (own + sum(scores))))
    assert _losses.contrast(features, labels, 0.5).item() == pytest.approx(sum(terms) / len(terms), rel=1e-9)


def test_contrast_without_pairs_pulls_nowhere() -> None:
    features = torch.randn(2, 7).requires_grad_(True)
    loss = _losses.contrast(features, torch.tensor([0, 1]), 0.5)
    loss.backward()
    assert loss.item() == 0
    assert features.grad is not None
    assert not features.grad.any()


def test_binding_equals_its_definition() -> None:
    maps = torch.rand(7, 3, 4, dtype=torch.float64)
    share = (maps / maps.sum((1, 2), keepdim=True)).flatten(1).numpy()

    def apart(a: int, b: int) -> float:
        ratio = np.log(share[a] / share[b])
        return float(0.5 * (share[a] * ratio).sum() - 0.5 * (share[b] * ratio).sum())

    # Positions 1 to 5: "red house and blue boat"; the modifier-noun pairs are (1, 2) and (4, 5).
    expected = 0.0
    for modifier, noun, others in ((1, 2, (3, 4, 5)), (4, 5, (1, 2, 3))):
        away = [0.5 * (apart(modifier, u) + apart(noun, u)) for u in others]
        expected += apart(modifier, noun) - sum(away) / len(away)
    groups = [[(1,), (2,)], [(4,), (5,)]]
    assert _losses.binding(maps, groups, range(1, 6)).item() == pytest.approx(expected, rel=1e-9)
