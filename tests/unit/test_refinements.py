"""Each refinement against loops, on a record, and refused where it cannot be served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import conceptlens as cl
from conceptlens.bench.datasets.scenes import make_scene
from conceptlens.ops import joint_bilateral as bilateral
from conceptlens.ops.agreement import LAYER_POWER, agreement, weigh_heads, weighted_mean
from conceptlens.ops.common_map import subtract_common
from conceptlens.ops.grids import resize
from conceptlens.ops.joint_bilateral import joint_bilateral
from conceptlens.ops.parts import connected_parts
from conceptlens.ops.propagation import propagate
from conceptlens.ops.spaces import centred_directions, vector_similarity
from conceptlens.session import Session
from conceptlens.values.recipe import REFINEMENTS, SHARP
from oracles.refinements import (
    bilateral_by_loops,
    head_weighted_by_loops,
    propagated_by_loops,
    weights_by_loops,
    without_common_by_loops,
)

WORDS = ("house", "sky", "grass")


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    return Image.fromarray(make_scene(10_000_001).image)


def test_weights_are_those_of_the_loops() -> None:
    parts = drawn(2, 5, 3, 7)
    found = agreement(parts, 4)
    for row in range(2):
        np.testing.assert_allclose(found[row], weights_by_loops(parts[row].numpy(), 4), atol=1e-6)


def test_a_head_that_says_the_opposite_counts_for_nothing() -> None:
    one = drawn(1, 1, 3, 7)
    found = agreement(torch.cat([one, one, -one], dim=1), 2)
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64), atol=1e-6, rtol=0)


def test_head_weights_are_those_of_the_loops() -> None:
    concepts, image = drawn(2, 3, 8), drawn(2, 7, 8)
    found = weigh_heads(concepts, image, 4)
    for row in range(2):
        slow = head_weighted_by_loops(concepts[row].numpy(), image[row].numpy(), 4)
        np.testing.assert_allclose(found[row, 0], slow, atol=1e-6)
    torch.testing.assert_close(weigh_heads(concepts, image, 1), vector_similarity(concepts, image))


def test_layer_weights_are_those_of_the_loops() -> None:
    parts = drawn(4, 2, 3, 7)
    found = weighted_mean(parts)
    for row in range(2):
        weights = weights_by_loops(parts[:, row].numpy(), LAYER_POWER)
        np.testing.assert_allclose(found[row], (weights[:, None, None] * parts[:, row].numpy()).sum(0), atol=1e-6)


@pytest.mark.parametrize("concepts", [2, 9])
def test_propagation_is_that_of_the_loops(concepts: int) -> None:
    """With fewer concepts than a head is wide, and with more."""
    scores, query, key = drawn(2, concepts, 6), drawn(2, 3, 6, 4), drawn(2, 3, 6, 4) + 1
    found = propagate(scores, query, key, 2.0)
    for row in range(2):
        slow = propagated_by_loops(scores[row].numpy(), query[row].numpy(), key[row].numpy(), 2.0)
        np.testing.assert_allclose(found[row], slow, atol=1e-12)


def test_common_map_is_that_of_the_loops() -> None:
    scores = drawn(2, 3, 7).abs()
    found = subtract_common(scores)
    for row in range(2):
        np.testing.assert_allclose(found[row], without_common_by_loops(scores[row].numpy()), atol=1e-12)
    assert torch.equal(subtract_common(scores[:, :1]), scores[:, :1])


def test_cosines_do_not_see_length_or_what_all_share() -> None:
    vectors = drawn(1, 4, 6)
    torch.testing.assert_close(centred_directions(3 * vectors + 5), centred_directions(vectors))
    torch.testing.assert_close(centred_directions(vectors).norm(dim=-1), torch.ones(1, 4, dtype=torch.float64))
    assert centred_directions(vectors[:, :1]).norm().item() == pytest.approx(1)


def test_the_joint_bilateral_is_that_of_the_loops() -> None:
    pixels = np.random.default_rng(0).integers(0, 40, (6, 8, 3), dtype=np.uint8)
    pixels[:, 4:] += 20
    scores = torch.rand(3, 3, 2, generator=torch.Generator().manual_seed(0)).softmax(0)
    found = joint_bilateral(scores, Image.fromarray(pixels), compete=True)
    settings = (bilateral.REACH, bilateral.CONTRAST, bilateral.ROUNDS, bilateral.SHARPENING, bilateral.PULL)
    slow = bilateral_by_loops(resize(scores, 6, 8).double().numpy(), pixels, (2.0, 4.0), settings)
    np.testing.assert_allclose(found, slow, atol=1e-4)


def test_maps_end_at_an_edge_between_two_patches() -> None:
    """The left 24 of 64 columns are dark; the map, of 4 x 4 patches, has its border at column 32."""
    pixels = np.full((64, 64, 3), 200, np.uint8)
    pixels[:, :24] = 40
    dark = torch.tensor([0.9, 0.7, 0.4, 0.1]).expand(4, 4)
    truth = np.arange(64)[None].repeat(64, 0) < 24
    scores, picture = torch.stack([dark, 1 - dark]), Image.fromarray(pixels)
    plain = cl.ConceptMaps(("dark", "light"), scores, picture, cl.Recipe(), "drawn")
    sharp = replace(plain, recipe=cl.Recipe(refine=("joint-bilateral",)))
    assert (plain.mask("dark", "argmax") != truth).sum() > 300
    for threshold in ("argmax", 0.5):
        assert np.array_equal(sharp.mask("dark", threshold), truth)
    assert torch.equal(sharp.scores, scores)
    assert torch.equal(sharp.finest, sharp.pixels())
    assert torch.equal(plain.finest, scores)


def test_large_pictures_are_cut_into_superpixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 60, (180, 300, 3), dtype=np.uint8)
    pixels[:, 130:] += 150
    left = torch.tensor([0.9, 0.6, 0.2, 0.1]).expand(3, 4)
    found = joint_bilateral(torch.stack([left, 1 - left]), Image.fromarray(pixels), compete=True)
    assert found.shape == (2, 180, 300)
    assert (found.argmax(0) == 0).float().mean().item() == pytest.approx(130 / 300, abs=0.01)


def test_raw_scores_stay_in_their_range() -> None:
    """What does not compete is averaged alone: a shift of all scores shifts the result."""
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    scores = drawn(2, 4, 4).float()
    found = joint_bilateral(scores, pixels, compete=False)
    assert scores.min() <= found.min() < found.max() <= scores.max()
    torch.testing.assert_close(joint_bilateral(scores - 7, pixels, compete=False), found - 7, atol=1e-4, rtol=0)


def test_parts_of_a_mask_are_counted_by_size() -> None:
    mask = np.zeros((10, 10), bool)
    mask[0:2, 0:2], mask[5:9, 5:9], mask[0, 9] = True, True, True
    mask[2, 2] = True  # touches the first part at a corner alone
    found = connected_parts(mask, 0.02)
    assert [int(part.sum()) for part in found] == [16, 4]
    assert len(connected_parts(mask, 0.0)) == 4


def test_two_houses_are_two_instances(demo: Session) -> None:
    house = Image.fromarray(make_scene(10_000_000, nouns=("house",)).image)
    both = Image.new("RGB", (128, 64))
    both.paste(house, (0, 0))
    both.paste(house.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (64, 0))
    maps = demo.probe(demo.read(both, preset="sharp"), WORDS)
    truth = make_scene(10_000_000, nouns=("house",)).mask("house")
    true = [np.zeros((64, 128), bool), np.zeros((64, 128), bool)]
    true[0][:, :64], true[1][:, 64:] = truth, truth[:, ::-1]
    found = maps.instances("house")[:2]
    assert len(found) == 2
    for number, half in enumerate(sorted(found, key=lambda part: np.nonzero(part)[1].mean())):
        assert (half & true[number]).sum() / (half | true[number]).sum() > 0.5
    with pytest.raises(cl.RecipeError, match=r"from 0 to 1; got 2\.0"):
        maps.instances("house", smallest=2.0)


@pytest.mark.parametrize("name", REFINEMENTS)
def test_every_refinement_answers_from_a_record(demo: Session, scene: Image.Image, name: str, tmp_path: Path) -> None:
    """As if it had been asked for at first; also from a file, whose bytes grow with the queries alone."""
    first = demo.read(scene, refine=name)
    plain = demo.read(scene)
    queries = sum(layer.tensors["query"].nbytes for layer in first.layers if "query" in layer.tensors)
    assert first.nbytes == plain.nbytes + queries
    assert (queries > 0) == (name == "self-attention")
    stored = demo.load_record(demo.save_record(first, tmp_path / "record.safetensors"))
    asked = demo.probe(stored, WORDS)
    assert asked.recipe is not None
    assert asked.recipe.refine == (name,)
    later = demo.probe(first if name == "self-attention" else plain, WORDS, refine=(name,))
    assert torch.equal(asked.pixels(), later.pixels())
    assert not torch.allclose(asked.pixels(), demo.probe(plain, WORDS).pixels())


def test_painting_refines_as_its_record_does(demo: Session) -> None:
    settings = {"seed": 1, "num_inference_steps": 2, "refine": ("head-weights", "self-attention", "layer-weights")}
    maps = demo.generate("a red house", WORDS, record=True, **settings)
    assert maps.record is not None
    assert torch.equal(maps.scores, demo.probe(maps.record, WORDS).scores)
    plain = demo.generate("a red house", WORDS, seed=1, num_inference_steps=2)
    assert maps.image.tobytes() == plain.image.tobytes()


def test_a_preset_is_a_recipe(demo: Session) -> None:
    sharp = demo.recipe("sharp")
    assert sharp.refine == SHARP
    assert sharp.preset == "sharp"
    assert replace(sharp, refine=(), preset=None) == demo.recipe()
    assert cl.Recipe().override(sharp.to_dict()) == sharp


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"refine": "sharpen"}, "refine must be of cosine, .*joint-bilateral; got 'sharpen'"),
        ({"refine": ("common-map", "cosine")}, "in one order, each once; got common-map, cosine. Write cosine,common"),
        ({"refine": ("cosine", "cosine")}, "each once; got cosine, cosine. Write cosine"),
        ({"refine": "head-weights", "space": "value"}, "compares attention outputs; got space='value'"),
        ({"refine": 3}, "refine must be of .*; got 3"),
    ],
)
def test_impossible_refinements(demo: Session, scene: Image.Image, options: dict, says: str) -> None:
    with pytest.raises(cl.RecipeError, match=says):
        demo.read(scene, **options)


def test_a_record_without_queries_says_what_to_record(demo: Session, scene: Image.Image) -> None:
    record = demo.read(scene)
    with pytest.raises(cl.RecipeError, match="no image queries. Read the image again with refine='self-attention'"):
        demo.probe(record, WORDS, refine="self-attention")


def test_a_unet_is_refined_by_its_picture_alone() -> None:
    session = cl.load("demo-unet")
    with pytest.raises(cl.RecipeError, match="refine='layer-weights' needs .* It can be refined by: joint-bilateral"):
        session.recipe(refine="layer-weights")
    assert session.recipe(refine="joint-bilateral").refine == ("joint-bilateral",)
    assert session.recipe("sharp").refine == SHARP
