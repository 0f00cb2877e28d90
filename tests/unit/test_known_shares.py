"""Areas whose shares of patches are known, at the resolution of the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conceptlens.ops import known_shares
from conceptlens.ops.grids import resize
from conceptlens.ops.known_shares import enlarge_shares
from conceptlens.values.errors import ScoreError
from oracles.known_shares import Settings, areas_by_loops

PHOTOGRAPHS = Path(__file__).parents[2].parent / "shared" / "photos"


def averages(masks: torch.Tensor, side: int) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(masks, side)


def test_areas_are_those_of_the_loops() -> None:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 60, (12, 16, 3), dtype=np.uint8)
    pixels[:, 6:] += 60
    masks = torch.zeros(3, 12, 16)
    masks[0, :, :7], masks[1, 5:, 7:], masks[2, :5, 7:] = 1, 1, 1
    shares = averages(masks, 4)
    found = enlarge_shares(shares[:2], Image.fromarray(pixels))
    settings = Settings(
        *(known_shares.STEPS, known_shares.CONTRAST, known_shares.LEAST, known_shares.PULL),
        *(known_shares.TEMPERATURE, known_shares.TURNS, known_shares.DESCENTS, known_shares.RARE),
    )

    def smoothly(values: np.ndarray) -> np.ndarray:
        return resize(torch.from_numpy(values), 12, 16).numpy()

    slow = areas_by_loops(shares.double().numpy(), pixels, smoothly, settings)
    np.testing.assert_allclose(found, slow[:2], atol=2e-3)
    assert 0.02 < found.min(dim=0).values.max() < 0.5


def test_a_patch_keeps_its_share_whichever_colour_is_nearer() -> None:
    """The dark 20 of 64 columns end within a patch of 16: a quarter of it is dark."""
    pixels = np.full((64, 64, 3), 200, np.uint8)
    pixels[:, :20] = 40
    truth = torch.zeros(1, 64, 64)
    truth[0, :, :20] = 1
    shares = averages(truth, 16)
    found = enlarge_shares(shares, Image.fromarray(pixels))
    assert torch.equal(found > 0.5, truth.bool())
    torch.testing.assert_close(averages(found, 16), shares, atol=0.01, rtol=0)


def test_an_area_smaller_than_half_a_patch_is_not_lost() -> None:
    """Bilinear averages never reach one half there."""
    pixels = np.full((96, 96, 3), 90, np.uint8)
    pixels[36:46, 50:60] = (200, 40, 40)
    truth = torch.zeros(1, 96, 96)
    truth[0, 36:46, 50:60] = 1
    shares = averages(truth, 16)
    assert resize(shares, 96, 96).max() < 0.5
    found = enlarge_shares(shares, Image.fromarray(pixels)) > 0.5
    assert (found & truth.bool()).sum() / (found | truth.bool()).sum() > 0.9


def test_without_colours_an_outline_is_smooth_and_its_area_right() -> None:
    y, x = np.mgrid[:128, :128] + 0.5
    truth = torch.from_numpy(np.hypot(y - 60, x - 70) < 40)[None]
    shares = averages(truth.float(), 16)
    grey = Image.new("RGB", (128, 128), (128, 128, 128))
    found = enlarge_shares(shares, grey) > 0.5
    plain = resize(shares, 128, 128) > 0.5
    wrong, wrong_plain = ((m ^ truth).sum().item() for m in (found, plain))
    assert wrong < 0.6 * wrong_plain
    assert found.sum().item() == pytest.approx(truth.sum().item(), rel=0.01)


@pytest.mark.parametrize(
    ("size", "grid"), [((40, 30), (3, 4)), ((900, 300), (5, 7)), ((6, 5), (8, 8)), ((1, 1), (1, 1))]
)
def test_pictures_of_any_size_keep_their_sums(size: tuple[int, int], grid: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    shares = torch.rand(3, *grid, generator=torch.Generator().manual_seed(0)).softmax(0)[:2]
    found = enlarge_shares(shares, Image.fromarray(pixels))
    assert found.shape == (2, size[1], size[0])
    assert found.min() >= 0
    assert found.sum(dim=0).max() <= 1 + 1e-5
    torch.testing.assert_close(found.mean((1, 2)), shares.mean((1, 2)), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        (torch.full((2, 2, 2), 0.7), r"smallest is 0\.7, the largest sum 1\.4"),
        (torch.full((1, 2, 2), -0.1), r"smallest is -0\.1"),
        (torch.full((1, 2, 2), torch.nan), "smallest is nan"),
    ],
)
def test_what_are_no_shares_is_refused(shares: torch.Tensor, said: str) -> None:
    with pytest.raises(ScoreError, match=said):
        enlarge_shares(shares, Image.new("RGB", (8, 8)))


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="photographs with masks are not here")
def test_outlines_of_a_photograph_are_nearer_than_bilinear_ones() -> None:
    name = sorted((PHOTOGRAPHS / "panoptic").glob("*.png"))[1].stem
    stored = np.asarray(Image.open(PHOTOGRAPHS / "panoptic" / f"{name}.png").convert("RGB")).astype(int)
    labels = stored @ [1, 256, 65536]
    image = Image.open(PHOTOGRAPHS / "images" / f"{name}.jpg").convert("RGB")
    masks = torch.from_numpy(np.stack([labels == n for n in np.unique(labels) if n]))
    shares = torch.nn.functional.adaptive_avg_pool2d(masks.float(), 16)
    wrong = [((m > 0.5) ^ masks).sum().item() for m in (enlarge_shares(shares, image), resize(shares, *labels.shape))]
    assert wrong[0] < 0.7 * wrong[1]
