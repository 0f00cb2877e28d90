"""Matches between frames on every video family whose text stream is written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import conceptlens as cl
from conceptlens import families
from conceptlens.families.base import Concepts, DiTAdapter
from conceptlens.readers.reading import record_call
from conceptlens.readers.stream import ConceptProbe
from conceptlens.session import Session
from conceptlens.values.recipe import Recipe
from oracles import tracks as oracle
from specimens.random_models import LENGTH
from tiny_models import FAMILIES, Family

FILMS = [family for family in FAMILIES.values() if family.video]
pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers on Mochi, without a GPU
ROWS, COLS = 2, 3


@pytest.mark.parametrize("family", FILMS, ids=lambda family: family.name)
def test_matches_are_the_mean_of_the_layers_with_the_models_own_rotation(family: Family) -> None:
    adapter, call = families.adapter_for(family.transformer()), family.call(1, ROWS, COLS)
    assert isinstance(adapter, DiTAdapter)
    recipe = Recipe(layers=(0, 1), refine=("self-attention",))
    with torch.no_grad():
        records = record_call(adapter, call, recipe)
        width = call["encoder_hidden_states"].shape[-1]
        pooled = torch.zeros(call["pooled_projections"].shape[-1]) if "pooled_projections" in call else None
        probe = ConceptProbe(adapter, Concepts(("a", "b"), torch.randn(2, width), pooled), recipe)
        for block, record in zip(adapter.blocks(), records, strict=False):
            probe(block, record)
    found = probe.matches
    assert found is not None
    assert found.shape == (1, 1, 2, ROWS * COLS, ROWS * COLS)
    expected = []
    for record in records:
        query = adapter.rotate(record.part("query"), record.call)[0].detach().numpy()
        expected.append(oracle.matches(query, record.key[0].numpy(), 2, ROWS * COLS, 0, 1))
    np.testing.assert_allclose(found[0, 0, 0].numpy(), np.mean(expected, axis=0), atol=1e-5)


def painted(session: Session, family: Family, **options: Any) -> Any:
    sizes = {"height": 64, "width": 96, "num_frames": 9, "num_inference_steps": 2, "max_sequence_length": LENGTH}
    return session.generate("a red house", ["house", "sky"], seed=0, **{**sizes, **family.plain, **options})


@pytest.mark.parametrize("family", FILMS[:1], ids=lambda family: family.name)
def test_a_painted_film_has_tracks_where_queries_are_recorded(family: Family) -> None:
    session = cl.load(family.pipeline())
    maps = painted(session, family, refine="self-attention")
    assert isinstance(maps, cl.VideoMaps)
    assert maps.matches is not None
    latent, cells = maps.scores.shape[1], maps.scores[0, 0].numel()
    assert maps.matches.shape == (min(3, latent - 1), latent, cells, cells)
    torch.testing.assert_close(maps.matches[0, :-1].sum(-1), torch.ones(latent - 1, cells))
    tracks = maps.tracks()
    assert np.array_equal(tracks.labels() > 0, np.any([t.labels() > 0 for t in map(maps.tracks, maps.asked)], axis=0))
    plain = painted(session, family)
    assert plain.matches is None
    with pytest.raises(cl.RecipeError, match="no matches between frames"):
        plain.tracks("house")
    still = painted(session, family, num_frames=1)
    assert len(still.tracks("house")) == len(still.at(0).instances("house"))


@pytest.mark.parametrize("family", FILMS[:2], ids=lambda family: family.name)
def test_a_record_has_the_matches_of_the_painting(family: Family) -> None:
    session = cl.load(family.pipeline())
    live = painted(session, family, refine="self-attention", record=True)
    again = session.probe(live.record, ["sky", "sea"], refine=())
    torch.testing.assert_close(again.matches, live.matches)
    assert again.tracks("sea").labels().shape == live.tracks("sky").labels().shape
