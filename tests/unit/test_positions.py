"""Boxes, centres and relations of known masks."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

import conceptlens as cl
from conceptlens.maps.positions import Place, Relation, place_of, relate


def drawn() -> cl.ConceptMaps:
    """Two squares on a ground, 8 x 10 pixels, the score one where each is."""
    scores = torch.zeros(3, 8, 10)
    scores[0, 1:3, 1:4] = 2
    scores[1, 4:7, 6:9] = 2
    scores[2] = 1
    return cl.ConceptMaps(("sun", "boat", "sea"), scores, Image.new("RGB", (10, 8)), None, "drawn")


def test_places_of_a_drawing() -> None:
    places = drawn().places()
    assert places["sun"] == Place((1, 1, 4, 3), (2.5, 2.0), 6 / 80)
    assert places["boat"] == Place((6, 4, 9, 7), (7.5, 5.5), 9 / 80)
    assert places["sea"].box == (0, 0, 10, 8)


def test_relations_of_a_drawing() -> None:
    first, *_ = drawn().relations()
    assert (first.first, first.second) == ("sun", "boat")
    assert first.dx == -0.5
    assert first.dy == -3.5 / 8
    assert str(first) == "sun left of and above boat"
    assert len(drawn().relations()) == 3


def test_an_empty_mask_has_no_place() -> None:
    nothing = place_of(np.zeros((4, 4), bool))
    assert nothing == Place(None, None, 0.0)
    assert relate({"a": nothing, "b": place_of(np.ones((4, 4), bool))}, (4, 4)) == ()


def test_close_centres_are_neither_left_nor_right() -> None:
    assert Relation("a", "b", 0.03, 0.2).words == ("below",)
    assert str(Relation("a", "b", 0.01, -0.01)) == "a at the place of b"
