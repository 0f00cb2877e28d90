"""Concepts followed through a film: matches between frames, instances linked by them, files of tracks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import conceptlens as cl
from conceptlens.maps.exports import decode_rle
from conceptlens.maps.links import MatchLink, OverlapLink, linked
from conceptlens.ops import tracks as ops
from conceptlens.ops.parts import connected_parts
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


SIZE = 16
Paths = Sequence[Sequence[tuple[int, int] | None]]
"""The corner of each square in each frame; None where it is out of sight."""


def square(top: int, left: int, side: int = 4) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[max(0, top) : top + side, max(0, left) : left + side] = True
    return mask


def moved(paths: Paths, latent: list[int]) -> MatchLink:
    """Matches of squares that move as a model would see them that knows which patch is which; the rest stays put."""
    count = max(latent) + 1
    first_of = [latent.index(number) for number in range(count)]
    matches = torch.zeros(3, count, SIZE**2, SIZE**2)
    for gap in range(1, 4):
        for first in range(count - gap):
            matches[gap - 1, first] = torch.eye(SIZE**2)
            for path in paths:
                start, end = path[first_of[first]], path[first_of[first + gap]]
                if start is None:
                    continue
                for r, c in np.argwhere(square(*start)):
                    row = torch.zeros(SIZE, SIZE)
                    if end is None:
                        row += 1 / SIZE**2  # nowhere
                    else:
                        row[(end[0] - start[0] + r) % SIZE, (end[1] - start[1] + c) % SIZE] = 1
                    matches[gap - 1, first, r * SIZE + c] = row.flatten()
    return MatchLink(matches, (SIZE, SIZE), latent)


def parts_of(paths: Paths) -> list[list[np.ndarray]]:
    """What a segmenter that cannot tell instances apart sees: connected parts of all squares."""
    frames = []
    for frame in range(len(paths[0])):
        union = np.zeros((SIZE, SIZE), bool)
        for path in paths:
            place = path[frame]
            union |= square(*place) if place is not None else False
        frames.append(list(connected_parts(union, 0.0)))
    return frames


def columns(track: dict[int, np.ndarray]) -> dict[int, int]:
    """The leftmost column of a track in each frame."""
    return {frame: int(np.flatnonzero(mask.any(0))[0]) for frame, mask in track.items()}


CROSSING: Paths = [[(5, 0), (5, 4), (5, 8), (5, 12)], [(6, 12), (6, 8), (6, 4), (6, 0)]]
"""Two squares that swap places; in the middle they touch."""


def test_instances_that_cross_keep_their_identities_by_matches() -> None:
    tracks = linked(parts_of(CROSSING), moved(CROSSING, [0, 1, 2, 3]), 0.0)
    assert sorted(columns(track)[3] - columns(track)[0] for track in tracks) == [-12, 12]
    assert [sorted(track) for track in tracks] == [[0, 1, 2, 3]] * 2
    for path, track in zip(CROSSING, sorted(tracks, key=lambda t: columns(t)[0]), strict=True):
        for frame, place in enumerate(path):
            assert place is not None
            assert (track[frame] & square(*place)).sum() >= 12, frame  # also while the two were one part


def test_overlap_alone_loses_those_that_cross() -> None:
    tracks = linked(parts_of(CROSSING), OverlapLink(), 0.0)
    assert not any(columns(track).get(3, 0) - columns(track).get(0, 0) in (-12, 12) for track in tracks)


def test_what_was_out_of_sight_goes_on_with_its_number() -> None:
    paths: Paths = [[(2, 0), None, None, (2, 9)], [(10, 3), (10, 4), (10, 5), (10, 6)]]
    tracks = linked(parts_of(paths), moved(paths, [0, 1, 2, 3]), 0.0)
    assert sorted(map(sorted, tracks)) == [[0, 1, 2, 3], [0, 3]]
    paths = [[(2, 0), None, None, None, None, (2, 9)]]
    tracks = linked(parts_of(paths), moved(paths, [0, 1, 2, 3, 4, 5]), 0.0)
    assert sorted(map(sorted, tracks)) == [[0], [5]]  # out of reach: another track


def test_what_passes_behind_another_comes_out_under_its_number() -> None:
    paths: Paths = [[(6, 6)] * 5, [(7, 0), (7, 3), (7, 6), (7, 10), (7, 12)]]
    parts = parts_of(paths)
    assert [len(here) for here in parts] == [2, 1, 1, 1, 2]
    tracks = linked(parts, moved(paths, [0, 1, 2, 3, 4]), 0.0)
    assert sorted((columns(track)[0], columns(track)[3], columns(track)[4]) for track in tracks) == [
        (0, 10, 12),
        (6, 6, 6),
    ]


def test_what_leaves_the_frame_beside_another_is_followed_to_the_last_column() -> None:
    paths: Paths = [[(6, left) for left in (3, 6, 8, 10, 11)], [(6, left) for left in (8, 10, 12, 14, 15)]]
    tracks = linked(parts_of(paths), moved(paths, [0, 1, 2, 3, 4]), 0.0)
    assert [sorted(track) for track in tracks] == [[0, 1, 2, 3, 4]] * 2
    assert sorted(int(track[4].sum()) for track in tracks) == [4, 16]


def test_a_thing_that_comes_in_begins_a_track() -> None:
    paths = [[(2, 0), (2, 1), (2, 2)], [None, None, (10, 6)]]
    tracks = linked(parts_of(paths), moved(paths, [0, 1, 2]), 0.0)
    assert sorted(map(sorted, tracks)) == [[0, 1, 2], [2]]


def test_frames_of_one_latent_frame_are_linked_where_they_are() -> None:
    paths = [[(2, 0), (2, 6), (2, 6)], [(10, 8), (10, 2), (10, 2)]]
    tracks = linked(parts_of(paths), moved(paths, [0, 1, 1]), 0.0)
    assert sorted(columns(track)[2] - columns(track)[0] for track in tracks) == [-6, 6]


def test_overlap_links_what_overlaps_and_else_the_nearest() -> None:
    paths = [[(2, 0), (2, 2), (2, 7)], [(11, 8), (11, 8), (11, 8)]]
    tracks = linked(parts_of(paths), OverlapLink(), 0.0)
    assert sorted(columns(track)[2] for track in tracks) == [7, 8]
    assert [sorted(track) for track in tracks] == [[0, 1, 2]] * 2
    far = [[(0, 0), (12, 12)]]
    assert sorted(map(sorted, linked(parts_of(far), OverlapLink(), 0.0))) == [[0], [1]]


def film(paths: Paths, **more: Any) -> cl.VideoMaps:
    """Maps of balls on a ground, exactly where the squares are; a frame for each latent frame."""
    ball = torch.stack([torch.from_numpy(sum(parts, np.zeros((SIZE, SIZE)))).float() for parts in parts_of(paths)])
    images = tuple(Image.new("RGB", (SIZE, SIZE), (40 * n, 90, 90)) for n in range(len(ball)))
    scores = torch.stack([0.8 * ball, 0.4 - 0.1 * ball])
    return cl.VideoMaps(("ball", "grass"), scores, cl.Clip(images), cl.Recipe(layers=(0,)), "tiny", **more)


def test_tracks_of_a_film() -> None:
    maps = film(CROSSING, matches=moved(CROSSING, [0, 1, 2, 3]).matches)
    tracks = maps.tracks("ball")
    assert [track.number for track in tracks] == [1, 2]
    assert tracks[1].frames == (0, 1, 2, 3)
    assert tracks[1].concept == "ball"
    assert abs(tracks[1].scores[0] - 0.8) < 1e-6
    assert {tracks[1].boxes[0], tracks[2].boxes[0]} == {(0, 5, 4, 9), (12, 6, 16, 10)}
    labels = tracks.labels()
    assert labels.shape == (4, SIZE, SIZE)
    assert np.array_equal(labels[2] == 1, tracks[1].masks[2])
    assert [track.concept for track in maps.tracks()][:3] == ["ball", "ball", "grass"]
    with pytest.raises(cl.ConceptError, match="no track 7. This film has: 1, 2"):
        tracks[7]


def test_maps_without_matches_say_what_gives_them() -> None:
    maps = film(CROSSING)
    with pytest.raises(cl.RecipeError, match="no image queries were recorded.*refine='self-attention'.*link='overlap'"):
        maps.tracks("ball")
    assert len(maps.tracks("ball", link="overlap")) >= 2
    with pytest.raises(cl.RecipeError, match="link must be one of match, overlap; got 'iou'"):
        maps.tracks("ball", link="iou")
    with pytest.raises(cl.ConceptError, match="no map of 'dog'"):
        maps.tracks("dog", link="overlap")


def test_files_of_tracks(tmp_path: Path) -> None:
    paths = [[(2, 0), None, (2, 6)]]
    tracks = film(paths, matches=moved(paths, [0, 1, 2]).matches).tracks("ball")
    tracks.save(tmp_path)
    told = json.loads((tmp_path / "tracks.json").read_text())
    assert told["videos"] == [
        {"id": 1, "width": SIZE, "height": SIZE, "length": 3, "file_names": [f"frame-00{n}.png" for n in range(3)]}
    ]
    assert all((tmp_path / name).exists() for name in told["videos"][0]["file_names"])
    (one,) = told["annotations"]
    assert (one["id"], one["video_id"], one["category_id"], one["length"]) == (1, 1, 1, 3)
    assert one["bboxes"] == [[0, 2, 4, 4], None, [6, 2, 4, 4]]
    assert one["areas"] == [16, None, 16]
    assert one["segmentations"][1] is None
    assert np.array_equal(decode_rle(one["segmentations"][2]), square(2, 6))
    assert (tmp_path / "tracks.txt").read_text() == (
        "1,1,1,3,4,4,0.8000,-1,-1,-1\n3,1,7,3,4,4,0.8000,-1,-1,-1\n"  # everything counts from 1
    )
    with Image.open(tmp_path / "tracks.gif") as moving:
        assert moving.n_frames == 3  # type: ignore[attr-defined]
        assert moving.size == (256, 256)
    assert tracks.save_gif(tmp_path / "one.gif").exists()
    with pytest.raises(cl.OutputError, match="save_gif writes GIF files; got 'one.mp4'"):
        tracks.save_gif(tmp_path / "one.mp4")
