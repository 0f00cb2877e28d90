"""Vectors that give the maps back, and questions with known answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

import conceptlens as cl
from conceptlens.bench.datasets.scenes import Scene, make_scene, scenes
from conceptlens.features import Features, features
from conceptlens.maps.positions import Place
from conceptlens.presence import Presence
from conceptlens.session import Session


def seen(session: Session, scene: Scene, **options: Any) -> cl.ImageRecord:
    return session.read(Image.fromarray(scene.image), seed=scene.seed, **options)


def test_dot_products_of_the_vectors_are_the_raw_scores(demo: Session) -> None:
    scene = make_scene(10_000_000)
    record = seen(demo, scene)
    found = features(demo, record, scene.concepts)
    raw = demo.probe(record, scene.concepts, softmax=False, keep=True).parts
    assert raw is not None
    assert found.layers == demo.recipe().layers
    dots = np.einsum("lcd,lrkd->lcrk", found.concept_vectors, found.patch_vectors)
    np.testing.assert_allclose(dots, raw[0].numpy(), rtol=1e-4, atol=1e-3)
    assert found.vector("sky").shape == (5, 128)


def test_draws_are_averaged_and_patches_do_not_depend_on_the_words(demo: Session) -> None:
    record = seen(demo, make_scene(8), samples=2)
    a, b = features(demo, record, ["house", "sky"]), features(demo, record, ["tree", "sky", "sun"])
    assert np.array_equal(a.patch_vectors, b.patch_vectors)
    assert not np.allclose(a.vector("sky"), b.vector("sky"), rtol=1e-3)
    recorded = {layer.layer: layer for layer in record.layers}
    outs = torch.stack([recorded[layer].part("out") for layer in a.layers])
    np.testing.assert_allclose(a.patch_vectors.reshape(5, 256, -1), outs.mean(1).numpy(), rtol=1e-4, atol=1e-4)


def drawn(chance: float | None) -> Features:
    there = (Presence("boat", 1.0, chance),)
    place = {"boat": Place((60, 60, 80, 80), (70.0, 70.0), 0.02)}
    return Features(("boat",), (0,), np.zeros((1, 1, 4)), np.zeros((1, 2, 2, 4)), there, place, (), (200, 90))


def test_where_is_the_boat() -> None:
    found = drawn(0.9)
    assert found.is_at("boat", "lower left") is True
    assert found.is_at("boat", "left") is True
    assert found.is_at("boat", "upper left") is False
    assert drawn(0.2).is_at("boat", "lower left") is False
    assert drawn(None).is_at("boat", "lower left") is None
    with pytest.raises(cl.ConceptError, match="where must be of the words left, right, upper, lower; got 'on top'"):
        found.is_at("boat", "on top")
    with pytest.raises(cl.ConceptError, match="no features of 'car'. These are of: boat"):
        found.is_at("car", "left")


def test_a_linear_probe_of_patch_vectors_reads_the_scene(demo: Session) -> None:
    """Sky or not, from the vectors of unseen scenes: nearly always; the largest class alone is right half the time."""

    def patches(offset: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        rows, labels = [], []
        for scene in scenes("validation", count, offset):
            rows.append(features(demo, seen(demo, scene), ["sky"], layers=(3,)).patch_vectors.reshape(256, -1))
            labels.append((scene.labels[2::4, 2::4] == scene.concepts.index("sky")).ravel())
        return np.concatenate(rows), np.concatenate(labels)

    train, test = patches(0, 8), patches(100, 4)
    scale = train[0].std()
    probe = LogisticRegression(max_iter=300).fit(train[0] / scale, train[1])
    right = probe.score(test[0] / scale, test[1])
    assert right > 0.93
    assert right > max(test[1].mean(), 1 - test[1].mean()) + 0.2
