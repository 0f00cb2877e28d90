"""Spread over noise draws, doubt, abstaining, and masks that follow edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import norm

import conceptlens as cl
from conceptlens.bench.datasets.scenes import make_scene
from conceptlens.ops.accumulate import moments
from conceptlens.ops.doubt import FLOOR, doubt
from conceptlens.ops.edges import follow_edges
from conceptlens.session import Session


@pytest.mark.parametrize("threshold", ["mean", 0.5])
def test_a_mask_lies_strictly_above_its_level(threshold: str | float) -> None:
    scores = torch.tensor([[[0.0, 0.5], [0.5, 1.0]], [[0.4, 0.4], [0.4, 0.4]]])
    maps = cl.ConceptMaps(("slope", "plain"), scores, Image.new("RGB", (2, 2)), None, "none")
    assert maps.mask("slope", threshold).tolist() == [[False, False], [False, True]]
    assert not maps.mask("plain", threshold).any(), "a constant map says nothing"


def test_only_the_surest_pixels_of_a_region_keep_their_label() -> None:
    """Columns 20 to 25 are wrong and of middling sureness, so the edge at column 20 takes them."""
    picture = Image.new("RGB", (40, 40))
    picture.paste((255, 255, 255), (20, 0, 40, 40))
    columns = np.arange(40)
    labels = np.tile((columns >= 26).astype(np.int64), (40, 1))
    sureness = np.where(columns < 10, 3.0, np.where(columns < 20, 1.0, np.where(columns < 26, 2.0, 3.0)))
    found = follow_edges(labels, np.tile(sureness + columns / 1000, (40, 1)), picture)
    assert np.array_equal(found, np.tile((columns >= 20).astype(np.int64), (40, 1)))


def test_running_moments_are_the_mean_and_the_standard_deviation() -> None:
    maps = 1e4 + torch.randn(7, 3, 4, 5, dtype=torch.float64)
    found = moments(maps)
    torch.testing.assert_close(found.mean, maps.mean(0))
    torch.testing.assert_close(found.spread, maps.std(0))
    assert moments(maps[:1]).spread is None
    with pytest.raises(ValueError, match="no scores"):
        _ = moments([]).mean


def test_doubt_is_the_chance_that_the_runner_up_is_higher() -> None:
    scores, spread = torch.rand(4, 3, 5), 0.3 * torch.rand(4, 3, 5)
    found, floor = doubt(scores, spread).numpy(), FLOOR * float(scores.max() - scores.min())
    for row in range(3):
        for col in range(5):
            second, first = scores[:, row, col].argsort()[-2:].tolist()
            gap = float(scores[first, row, col] - scores[second, row, col])
            deviation = float(floor**2 + spread[first, row, col] ** 2 + spread[second, row, col] ** 2) ** 0.5
            assert found[row, col] == pytest.approx(norm.cdf(-gap / deviation), abs=1e-4)
    torch.testing.assert_close(doubt(100 * scores, 100 * spread), doubt(scores, spread))
    assert doubt(scores[:1]).max() == 0
    assert doubt(torch.ones(2, 1, 1)).item() == 0.5


@pytest.fixture(scope="module")
def several(demo: Session) -> cl.ConceptMaps:
    """A scene, read with four draws."""
    scene = make_scene(10_000_000)
    return demo.probe(demo.read(Image.fromarray(scene.image), seed=0, samples=4), scene.concepts)


def test_the_spread_is_that_of_the_draws_read_one_by_one(demo: Session, several: cl.ConceptMaps) -> None:
    """The first draw of a seed is the same, however many follow."""
    picture = several.image
    one = demo.probe(demo.read(picture, seed=0), several.concepts)
    two = demo.probe(demo.read(picture, seed=0, samples=2), several.concepts)
    assert one.spread is None
    assert two.spread is not None
    # two values, their mean and one of them known: the deviation is |first - mean| * sqrt(2)
    torch.testing.assert_close(two.spread, (one.scores - two.scores).abs() * 2**0.5, rtol=1e-3, atol=1e-5)
    assert several.spread is not None
    assert several.spread.shape == several.scores.shape


def test_abstaining_leaves_out_the_most_doubtful_pixels(several: cl.ConceptMaps, tmp_path: Path) -> None:
    all_, fewer = several.segmentation(), several.refined(abstain=0.25).segmentation()
    assert (fewer == -1).mean() == 0.25
    assert np.array_equal(fewer[fewer >= 0], all_[fewer >= 0])
    scene = make_scene(10_000_000)
    right = all_ == scene.labels
    assert right[fewer >= 0].mean() > right.mean() + 0.03
    folder = several.refined(abstain=0.25).save(tmp_path)
    assert np.array_equal(np.asarray(Image.open(folder / "labels.png")) == 255, fewer == -1)
    with np.load(folder / "maps.npz") as arrays:
        assert np.array_equal(arrays["segmentation"], fewer)
        assert arrays["spread"].shape == several.scores.shape
    assert "doubt" in (folder / "report.html").read_text()
    with pytest.raises(cl.RecipeError, match=r"from 0 to below 1; got 1\.5"):
        several.refined(abstain=1.5)


def test_masks_move_to_an_edge_between_two_patches() -> None:
    """A picture whose left half is dark; the map, one of 4 x 4 patches, has the border half a patch further right."""
    pixels = np.full((64, 64, 3), 220, np.uint8)
    pixels[:, :32] = 30
    pixels += np.random.default_rng(0).integers(0, 12, pixels.shape, dtype=np.uint8)
    scores = torch.zeros(2, 4, 4)
    scores[0] = torch.tensor([1.0, 0.8, 0.6, 0.0])
    scores[1] = 1 - scores[0]
    maps = cl.ConceptMaps(("dark", "light"), scores, Image.fromarray(pixels), None, "drawn")
    truth = np.zeros((64, 64), bool)
    truth[:, :32] = True
    assert maps.mask("dark", "argmax").sum() > truth.sum() + 300
    assert np.array_equal(maps.refined(edges=True).mask("dark", "argmax"), truth)
    assert np.array_equal(maps.refined(edges=True).mask("dark", 0.5), truth)
    assert maps.refined(edges=True).places()["dark"].box == (0, 0, 32, 64)


def test_edges_help_on_a_scene(demo: Session) -> None:
    """One of those where it shows; `benchmarks/refine.py` says how much on the average."""
    scene = make_scene(10_000_001)
    maps = demo.probe(demo.read(Image.fromarray(scene.image)), scene.concepts)
    before, after = (m.segmentation() == scene.labels for m in (maps, maps.refined(edges=True)))
    assert after.mean() > before.mean()


def test_large_pictures_and_single_regions_pass() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 99, (300, 700, 3), dtype=np.uint8))
    labels = np.zeros((300, 700), np.int64)
    assert np.array_equal(follow_edges(labels, np.ones(labels.shape), picture), labels)
    labels[:, 350:] = 3
    found = follow_edges(labels, np.abs(np.arange(700) - 349.5)[None].repeat(300, 0), picture)
    assert found.shape == labels.shape
    assert set(np.unique(found)) == {0, 3}
    assert (found != labels).mean() < 0.1
    assert np.array_equal(follow_edges(labels, np.ones(labels.shape), Image.new("RGB", (700, 300))), labels)
