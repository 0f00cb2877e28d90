"""Maps of a video: which map a frame gets, and what is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import conceptlens as cl
from conceptlens.video_maps import maps_of


def video(frames: int = 9, latent: int = 3) -> cl.VideoMaps:
    """Two concepts; the first is at the left in latent frame 0, and one column further in each that follows."""
    scores = torch.zeros(2, latent, 2, max(4, latent))
    for number in range(latent):
        scores[0, number, :, number] = 1
    scores[1] = 1 - scores[0]
    images = [Image.new("RGB", (16, 8), (number, 0, 0)) for number in range(frames)]
    made = maps_of(images, concepts=("car", "sky"), scores=scores, recipe=cl.Recipe(layers=(0,)), model_id="tiny")
    assert isinstance(made, cl.VideoMaps)
    return made


def test_a_frame_gets_the_map_of_the_latent_frame_that_holds_it() -> None:
    made = video()
    assert len(made) == 9
    assert [made.latent_frame(frame) for frame in range(9)] == [0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert made.latent_frame(-1) == 2
    assert [video(49, 13).latent_frame(f) for f in (0, 1, 4, 5, 48)] == [0, 1, 1, 2, 12]
    assert video(1, 1).latent_frame(0) == 0
    with pytest.raises(cl.RecipeError, match="no frame 9: this video has 9"):
        made.at(9)


def test_a_frame_opens_as_the_maps_of_a_picture() -> None:
    made = video()
    frame = made.at(5)
    assert isinstance(frame, cl.ConceptMaps)
    assert frame.image.getpixel((0, 0)) == (5, 0, 0)
    assert torch.equal(frame.scores, made.scores[:, 2])
    assert made["car"].shape == (3, 2, 4)
    assert frame["car"].argmax().item() == 2
    with pytest.raises(cl.ConceptError, match="no map of 'boat'"):
        made["boat"]
    winners = made.segmentation()
    assert winners.shape == (9, 8, 16)
    assert np.array_equal(winners[5], frame.segmentation())


def test_what_is_saved_says_what_it_is(tmp_path: Path) -> None:
    made = video(3, 3)
    made.save(tmp_path)
    told = json.loads((tmp_path / "maps.json").read_text())
    assert told["frames"] == 3
    assert told["grid"] == [3, 2, 4]
    assert sorted(told["files"]) == sorted(path.name for path in tmp_path.iterdir())
    assert np.array_equal(np.load(tmp_path / "maps.npz")["scores"], made.scores.numpy())
    with Image.open(tmp_path / "overlay.gif") as moving:
        assert moving.size == made.at(0).overlay().size
    assert "3 frames in 3 latent ones" in made.describe()
