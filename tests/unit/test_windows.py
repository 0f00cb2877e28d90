"""Pictures larger than the model's own size, in overlapping windows."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import conceptlens as cl
from conceptlens.bench.datasets.scenes import make_scene
from conceptlens.methods.windows import probe_windows, read_windows
from conceptlens.ops.windows import stitched, window_starts
from conceptlens.rerun import RerunError, rerun
from conceptlens.session import Session
from conceptlens.values.records import TokenGrid

WORDS = ("house", "sky", "grass", "sun")


@pytest.fixture(scope="module")
def demo() -> Session:
    return cl.load()


@pytest.fixture(scope="module")
def scenes() -> list:
    return [make_scene(10_000_000 + number, nouns=("house", "sun")) for number in range(2)]


@pytest.mark.parametrize(
    ("length", "overlap", "starts"),
    [(16, 0.5, (0,)), (32, 0.0, (0, 16)), (32, 0.5, (0, 8, 16)), (33, 0.5, (0, 6, 11, 17)), (17, 0.9, (0, 1))],
)
def test_windows_reach_from_one_end_to_the_other(length: int, overlap: float, starts: tuple[int, ...]) -> None:
    assert window_starts(length, 16, overlap) == starts


def test_neighbours_share_what_they_should() -> None:
    for length in range(16, 80):
        starts = window_starts(length, 16, 0.25)
        assert starts[-1] == length - 16
        assert all(after - before <= 12 for before, after in pairwise(starts))


def test_maps_are_stitched_as_by_loops() -> None:
    corners = [(row, col) for row in (0, 2) for col in (0, 1, 4)]
    maps = list(torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    slow = np.zeros((3, 6, 8))
    for y in range(6):
        for x in range(8):
            sums, weights = np.zeros(3), 0.0
            for scores, (row, col) in zip(maps, corners, strict=True):
                down, right = y - row, x - col
                if 0 <= down < 4 and 0 <= right < 4:
                    weight = min(down + 0.5, 3.5 - down) * min(right + 0.5, 3.5 - right)
                    sums, weights = sums + weight * scores[:, down, right].numpy(), weights + weight
            slow[:, y, x] = sums / weights
    np.testing.assert_allclose(stitched(maps, corners, 6, 8), slow, atol=1e-6)


def test_one_window_is_the_plain_reading(demo: Session, scenes: list) -> None:
    picture = Image.fromarray(scenes[0].image)
    whole = probe_windows(demo, read_windows(demo, picture, 64, seed=3), WORDS)
    plain = demo.probe(demo.read(picture, seed=3), WORDS)
    assert torch.equal(whole.scores, plain.scores)
    assert np.array_equal(whole.segmentation(), plain.segmentation())


def test_windows_keep_what_a_reading_of_a_wide_picture_loses(demo: Session, scenes: list) -> None:
    wide = Image.new("RGB", (192, 64))
    for number in range(3):
        wide.paste(Image.fromarray(scenes[number % 2].image), (64 * number, 0))
    truth = np.concatenate([scenes[number % 2].mask("house") for number in range(3)], axis=1)
    record = read_windows(demo, wide, 64, overlap=0.5)
    assert record.corners == tuple((0, col) for col in (0, 8, 16, 24, 32))
    maps = probe_windows(demo, record, WORDS)
    assert maps.scores.shape == (4, 16, 48)
    assert maps.image.size == (192, 64)
    plain = demo.probe(demo.read(wide), WORDS)
    fits = [
        (m & truth).sum() / (m | truth).sum() for m in (maps.mask("house", "argmax"), plain.mask("house", "argmax"))
    ]
    assert fits[0] > fits[1] + 0.1
    again = probe_windows(demo, record, ("sun", "grass"), refine="joint-bilateral")
    assert again.asked == ("sun", "grass")
    assert again.pixels().shape == (2, 64, 192)


def test_saved_maps_say_that_they_are_of_windows(demo: Session, tmp_path: Path) -> None:
    maps = probe_windows(demo, read_windows(demo, Image.new("RGB", (96, 64), "green"), 64), ("grass", "sky"))
    assert maps.run_info.settings == {"side": 64, "corners": [[0, 0], [0, 8]]}
    maps.save(tmp_path / "out")
    with pytest.raises(RerunError, match="made by the method 'windows'"):
        rerun(tmp_path / "out")


def test_small_and_crooked_pictures_are_fitted(demo: Session) -> None:
    record = read_windows(demo, Image.new("RGB", (101, 40), "green"), 64, overlap=0.0)
    assert record.units == (16, 40)
    assert probe_windows(demo, record, ("grass", "sky")).mask("grass").shape == (40, 101)


@pytest.mark.parametrize(
    ("side", "overlap", "said"),
    [(63, 0.5, "multiple of 16 pixels; got 63"), (0, 0.5, "got 0"), (64, 1.0, r"below 1; got 1\.0")],
)
def test_impossible_windows_are_refused(demo: Session, side: int, overlap: float, said: str) -> None:
    with pytest.raises(cl.RecipeError, match=said):
        read_windows(demo, Image.new("RGB", (64, 64)), side, overlap=overlap)


def test_patches_must_fit_one_grid(demo: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "read", lambda *_args, **_options: SimpleNamespace(grid=TokenGrid(18, 18)))
    with pytest.raises(cl.RecipeError, match="multiple of 16 patches a side; of 64 pixels this model makes 18 x 18"):
        read_windows(demo, Image.new("RGB", (64, 64)), 64)


def test_parts_are_not_stitched(demo: Session, scenes: list) -> None:
    record = read_windows(demo, Image.fromarray(scenes[0].image), 64)
    with pytest.raises(cl.RecipeError, match="Drop keep"):
        probe_windows(demo, record, WORDS, keep=True)
