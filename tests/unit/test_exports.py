"""Masks as other tools read them, against slow oracles written from the formats' definitions."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.color import rgb2lab
from skimage.draw import polygon2mask

import conceptlens as cl
from conceptlens.maps.exports import (
    coco,
    cut_out,
    decode_rle,
    detections,
    encode_rle,
    palette_image,
    polygons,
    ring_area,
    run_lengths,
    without_holes,
)
from conceptlens.maps.pictures import palette
from conceptlens.values.errors import ImageError, LibraryError

masks = st.builds(
    lambda height, width, seed, share: np.random.default_rng(seed).random((height, width)) < share,
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]),
)


def slow_run_lengths(mask: np.ndarray) -> list[int]:
    """Walks down each column and counts."""
    counts, current = [0], False
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if bool(mask[y, x]) != current:
                counts.append(0)
                current = not current
            counts[-1] += 1
    return counts


def slow_counts(text: str) -> list[int]:
    """COCO's number code, bit by bit."""
    bits: list[int] = []
    numbers: list[int] = []
    for character in text:
        value = ord(character) - 48
        bits += [value >> place & 1 for place in range(5)]
        if value < 32:
            number = sum(bit << place for place, bit in enumerate(bits))
            number -= bits[-1] << len(bits)
            numbers.append(number + (numbers[-2] if len(numbers) > 2 else 0))
            bits = []
    return numbers


def even_odd(rings: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre is inside an odd number of rings, by counting the vertical edges to its right."""
    filled = np.zeros(shape, bool)
    for y in range(shape[0]):
        for x in range(shape[1]):
            crossed = 0
            for ring in rings:
                for (ax, ay), (bx, by) in zip(ring, np.roll(ring, -1, 0), strict=True):
                    crossed += ax == bx and ax > x + 0.5 and min(ay, by) < y + 0.5 < max(ay, by)
            filled[y, x] = crossed % 2
    return filled


@given(masks)
@settings(max_examples=80, deadline=None)
def test_run_lengths_agree_with_the_slow_oracle(mask: np.ndarray) -> None:
    assert run_lengths(mask) == slow_run_lengths(mask)
    coded = encode_rle(mask)
    assert coded["size"] == list(mask.shape)
    assert slow_counts(coded["counts"]) == slow_run_lengths(mask)
    assert np.array_equal(decode_rle(coded), mask)


def test_run_lengths_above_five_bits() -> None:
    mask = np.zeros((300, 400), bool)
    mask[40:250, 10:390] = True
    mask[41, 11] = False
    assert slow_counts(encode_rle(mask)["counts"]) == slow_run_lengths(mask)
    assert np.array_equal(decode_rle(encode_rle(mask)), mask)


def test_a_known_code() -> None:
    """Two by two, the lower left pixel set: runs 1, 1, 2, each a single character."""
    assert encode_rle(np.array([[False, False], [True, False]])) == {"size": [2, 2], "counts": "112"}


def test_lengths_that_do_not_fill_are_refused() -> None:
    with pytest.raises(ImageError, match="run lengths of 4 pixels do not fill 3x3"):
        decode_rle({"size": [3, 3], "counts": "112"})


@given(masks)
@settings(max_examples=60, deadline=None)
def test_outlines_give_the_mask_back(mask: np.ndarray) -> None:
    rings = polygons(mask)
    assert np.array_equal(even_odd(rings, mask.shape), mask)
    assert sum(map(ring_area, rings)) == mask.sum()
    for ring in rings:
        assert len(ring) >= 4
        assert np.all((ring != np.roll(ring, 1, 0)).sum(1) == 1), "edges run along the pixels, corners only"


def test_a_ring_has_an_outer_outline_and_a_hole() -> None:
    mask = np.ones((5, 6), bool)
    mask[2, 2:4] = False
    assert sorted(map(ring_area, polygons(mask))) == [-2, 30]


def test_outlines_in_coco_are_of_the_area_that_they_enclose() -> None:
    ring = np.zeros((40, 40), bool)
    ring[5:35, 5:35] = True
    ring[10:30, 10:30] = False
    ring[15:25, 15:25] = True  # an island in the hole
    ring[0, 0] = True
    ring[5, 5] = ring[6, 6] = False  # which touch at a corner, so that no hole is left open
    drawn, exact = (coco({"r": ring}, (40, 40), outlines=o)["annotations"][0] for o in (True, False))
    outlines = [np.array(flat).reshape(-1, 2) for flat in drawn["segmentation"]]
    assert drawn["area"] == sum(map(ring_area, outlines)) == 900 - 1
    assert len(outlines) == 2
    assert even_odd(outlines, ring.shape).sum() == drawn["area"]
    assert exact["area"] == ring.sum()
    assert np.array_equal(decode_rle(exact["segmentation"]), ring)
    assert drawn["bbox"] == exact["bbox"] == [0, 0, 35, 35]


@given(masks)
@settings(max_examples=40, deadline=None)
def test_filled_masks_have_outer_outlines_only(mask: np.ndarray) -> None:
    filled = without_holes(mask)
    assert filled[mask].all()
    assert all(ring_area(ring) > 0 for ring in polygons(filled))


def test_coco_holds_what_it_says() -> None:
    disc = np.hypot(*np.mgrid[-10:11, -15:16]) < 8.5
    made = json.loads(json.dumps(coco({"moon": disc, "sea": ~disc, "boat": disc & ~disc}, (31, 21))))
    assert [c["name"] for c in made["categories"]] == ["moon", "sea", "boat"]
    assert [a["category_id"] for a in made["annotations"]] == [1, 2]
    first = made["annotations"][0]
    assert [a["bbox"] for a in made["annotations"]] == [[7, 2, 17, 17], [0, 0, 31, 21]]
    assert first["area"] == disc.sum()
    assert np.array_equal(decode_rle(first["segmentation"]), disc)
    (outline,) = coco({"moon": disc}, (31, 21), outlines=True)["annotations"][0]["segmentation"]
    corners = np.array(outline).reshape(-1, 2)
    assert np.array_equal(polygon2mask(disc.shape, corners[:, ::-1] - 0.5), disc)


def test_the_palette_png_keeps_labels_and_shows_colours() -> None:
    labels = np.arange(12).reshape(3, 4) % 5
    made = palette_image(labels, 5)
    assert made.mode == "P"
    assert np.array_equal(np.asarray(made), labels)
    assert np.array_equal(np.asarray(made.convert("RGB")), palette(5)[labels])
    with pytest.raises(ImageError, match="255 labels; got 300"):
        palette_image(labels, 300)


def test_cut_outs_are_transparent_outside() -> None:
    picture = Image.new("RGB", (4, 3), (10, 200, 30))
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    made = np.asarray(cut_out(picture, mask))
    assert made.shape == (3, 4, 4)
    assert made[1, 2].tolist() == [10, 200, 30, 255]
    assert made[..., 3].sum() == 255


@dataclass
class Detections:
    """The fields of `supervision.Detections` (0.31), in their order."""

    xyxy: np.ndarray
    mask: np.ndarray | None = None
    confidence: np.ndarray | None = None
    class_id: np.ndarray | None = None
    tracker_id: np.ndarray | None = None
    data: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def empty(cls) -> Detections:
        return cls(np.empty((0, 4), np.float32))


def three_maps() -> cl.ConceptMaps:
    scores = torch.zeros(3, 8, 10)
    scores[0, 1:3, 1:4] = 0.5
    scores[2] = 0.25
    return cl.ConceptMaps(("sun", "boat", "sea"), scores, Image.new("RGB", (10, 8)), None, "drawn")


def test_supervision_gets_what_it_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", cast(Any, SimpleNamespace(Detections=Detections)))
    found = three_maps().to_supervision()
    assert found.xyxy.tolist() == [[1, 1, 4, 3], [0, 0, 10, 8]]
    assert found.mask.shape == (2, 8, 10)
    assert found.mask.dtype == bool
    assert found.mask[0].sum() == 6
    assert found.confidence.tolist() == [0.5, 0.25]
    assert found.class_id.tolist() == [0, 2], "the boat has no pixel, its number stays free"
    assert found.data["class_name"].tolist() == ["sun", "sea"]
    assert detections({"boat": np.zeros((2, 2), bool)}, {}).xyxy.shape == (0, 4)
    mask, scores = np.array([[True, True], [False, True]]), np.array([[0.25, 0.5], [9.0, 0.75]])
    assert detections({"sun": mask}, {"sun": scores}).confidence.tolist() == [0.5], "the mean inside the mask"


def test_without_supervision_it_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(LibraryError, match=r"need the package supervision\. Install it: pip install supervision\."):
        three_maps().to_supervision()


def test_abstained_pixels_are_255_in_the_palette_png() -> None:
    made = palette_image(np.array([[0, -1], [1, 1]]), 2)
    assert np.asarray(made).tolist() == [[0, 255], [1, 1]]
    assert np.asarray(made.convert("RGB"))[0, 1].tolist() == [128, 128, 128]


def test_colours_never_repeat_and_the_first_twelve_stay() -> None:
    palette(256)[:] = 0  # what a caller does with its colours
    colours = palette(256)
    assert len({tuple(colour) for colour in colours.tolist()}) == 256
    assert np.array_equal(colours[:12], palette(12))
    lab = rgb2lab(palette(24))
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1000 * np.eye(24)
    assert apart.min() > 10
