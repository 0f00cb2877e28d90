"""CLIP as RNN: its parts against their definitions, the recurrence with stubs, the whole on tiny CLIP models."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import ViTConfig

from conceptlens.methods import method_named
from conceptlens.methods._clip_as_rnn_masks import affinity, boxes, refine, visual_prompt
from conceptlens.methods._clip_as_rnn_words import BACKGROUNDS, SCORING_TEMPLATES
from conceptlens.methods.clip_as_rnn import ClipAsRnn, recur
from conceptlens.methods.clip_models import Clip, head_mean_attention, load_clip, look, stretch
from conceptlens.session import Session
from conceptlens.values.errors import ConceptError, ModelError, RecipeError
from tiny_models import tokenizers
from tiny_unets import METHODS_TINY_UNET, SIDE, tiny_clip


@pytest.fixture(scope="module")
def clip() -> Clip:
    return Clip(tiny_clip(), tokenizers()[0], "tiny")


@pytest.fixture
def picture() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))


def test_the_affinity_is_symmetric_and_doubly_stochastic() -> None:
    attention = torch.randn(40, 40, dtype=torch.float64).softmax(-1)
    matrix = affinity(attention)
    torch.testing.assert_close(matrix, matrix.T)
    torch.testing.assert_close(matrix.sum(0), torch.ones(40, dtype=torch.float64), rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(matrix.sum(1), torch.ones(40, dtype=torch.float64), rtol=2e-3, atol=2e-3)
    assert matrix.min() > 0
    assert not torch.allclose(attention.sum(0), torch.ones(40, dtype=torch.float64), rtol=0.1)


def test_of_uniform_attention_nothing_is_left_but_the_mean() -> None:
    cams = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    assert torch.equal(refine(cams, affinity(torch.full((4, 4), 0.25)), 0.4), torch.zeros(1, 2, 2))
    assert torch.equal(refine(cams, torch.eye(4), 0.4), cams)


def test_boxes_hold_every_region_and_nothing_else() -> None:
    values = torch.zeros(6, 8)
    values[1, 1] = values[2, 2] = 1.0  # joined at a corner
    values[4, 6] = values[5, 6] = 0.5
    values[0, 7] = 0.3  # below the threshold
    wanted = torch.zeros(6, 8, dtype=torch.bool)
    wanted[1:3, 1:3] = True
    wanted[4:6, 6] = True
    assert torch.equal(boxes(values, 0.4), wanted)
    assert not boxes(torch.zeros(6, 8), 0.4).any()


def test_maps_spread_from_within_their_boxes_only() -> None:
    cam = torch.zeros(1, 2, 3)
    cam[0, 0, 0], cam[0, 1, 2] = 1.0, 0.2
    spread = torch.zeros(6, 6)
    spread[1, 0], spread[3, 5] = 1.0, 9.0
    assert torch.equal(refine(cam, spread, 0.4), torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]]))


def test_a_visual_prompt_keeps_the_mask_and_blurs_the_rest(picture: torch.Tensor) -> None:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[8:21, 4:17] = True
    before = picture.clone()
    marked = visual_prompt(picture, mask)
    assert torch.equal(marked[mask], picture[mask])
    assert torch.equal(picture, before)
    red = (marked == torch.tensor([255, 0, 0])).all(-1)
    assert not red[mask].any()
    padded = np.pad(picture.numpy(), ((7, 7), (7, 7), (0, 0)), mode="reflect").astype(float)
    for row, col in ((0, 0), (30, 2), (25, 25), (31, 31)):
        window = padded[row : row + 15, col : col + 15].mean((0, 1))
        assert np.abs(marked[row, col].numpy() - window).max() <= 0.51
    over = visual_prompt(picture, mask, over=True)
    red = (over == torch.tensor([255, 0, 0])).all(-1)
    where = red.nonzero()
    assert where.amin(0).tolist() == [8, 4]
    assert where.amax(0).tolist() == [20, 16]
    assert not red[14, 10], "the ellipse is an outline"


def test_the_ellipse_shows_where_the_mask_is_not(picture: torch.Tensor) -> None:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[8, 4] = mask[20, 16] = True
    red = (visual_prompt(picture, mask) == torch.tensor([255, 0, 0])).all(-1)
    assert red.sum() > 20
    empty = visual_prompt(picture, torch.zeros(SIDE, SIDE, dtype=torch.bool))
    assert not (empty == torch.tensor([255, 0, 0])).all(-1).any()


def test_head_mean_attention_is_the_models_own(picture: torch.Tensor) -> None:
    model = tiny_clip()
    model.vision_model.set_attn_implementation("eager")
    clip = Clip(model, tokenizers()[0], "tiny")
    pixels = clip.pixels(picture[None], 16)
    own = model.vision_model(pixels, output_attentions=True).attentions
    hidden = clip.embed(pixels)
    for layer, wanted in zip(model.vision_model.encoder.layers, own, strict=True):
        torch.testing.assert_close(head_mean_attention(layer, hidden), wanted[0].mean(0), rtol=1e-4, atol=1e-6)
        hidden = layer(hidden, None)


def test_scores_are_those_of_the_whole_model(clip: Clip, picture: torch.Tensor) -> None:
    texts = ["a sun", "a red house"]
    given = clip.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        own = clip.model(pixel_values=clip.pixels(picture[None], 16), **given).logits_per_image
    made = clip.logits(clip.image(picture[None], skip_last=False), clip.text(texts))
    torch.testing.assert_close(made, own, rtol=1e-4, atol=1e-4)
    short = clip.logits(clip.image(picture[None], skip_last=True), clip.text(texts))
    assert not torch.allclose(short, own, rtol=1e-2)


def test_positions_are_interpolated_bilinearly(clip: Clip) -> None:
    vision = clip.model.vision_model
    blank = torch.zeros(1, 3, 32, 32)
    tokens = clip.embed(blank)
    weight = vision.embeddings.position_embedding.weight
    with torch.no_grad():
        own = F.interpolate(weight[1:].T.reshape(1, 16, 4, 4), (8, 8), mode="bilinear")[0]
        torch.testing.assert_close(tokens[0, 1:], vision.pre_layrnorm(own.flatten(1).T))
    assert tokens.shape == (1, 65, 16)


def test_activation_maps_follow_their_equation(clip: Clip, picture: torch.Tensor) -> None:
    """Weights by finite differences of the query's probability, in float64."""
    model = tiny_clip().double()
    queries, others = clip.text(["sun", "house"]), clip.text(["grass", "sky", "sea"])
    seen = look(clip, picture, 16)
    made = seen.activation_maps(queries, others)
    last: Any = model.vision_model.encoder.layers[-1]
    vision = model.vision_model
    before, texts = seen.before.double(), torch.cat([queries, others]).double()

    def chance(features: torch.Tensor) -> torch.Tensor:
        hidden = before + last.self_attn(features, None)[0]
        hidden = hidden + last.mlp(last.layer_norm2(hidden))
        mean = vision.post_layernorm(hidden)[0, 1:].mean(0)
        image = F.normalize(model.visual_projection(mean), dim=0)
        return (model.logit_scale.exp() * (texts @ image)).softmax(0)

    with torch.no_grad():
        features = last.layer_norm1(before)
        for query in range(2):
            weights = torch.zeros(16, dtype=torch.float64)
            for channel in range(16):
                nudged = torch.zeros_like(features)
                nudged[0, 1:, channel] = 1e-5  # all patches at once: the sum of their derivatives
                rise = chance(features + nudged)[query] - chance(features - nudged)[query]
                weights[channel] = rise / 2e-5 / 16
            wanted = stretch((features[0, 1:] @ weights).clamp(min=0)).reshape(4, 4)
            torch.testing.assert_close(made[query].double(), wanted, rtol=1e-3, atol=1e-3)


def test_a_single_query_without_others_has_no_map(clip: Clip, picture: torch.Tensor) -> None:
    seen = look(clip, picture, SIDE)
    assert not seen.activation_maps(clip.text(["sun"]), clip.text(["sky"])[:0]).any()
    assert seen.activation_maps(clip.text(["sun"]), clip.text(["sky"])).any()


def run(scores: dict[str, list[float]], keep_above: float = 0.6) -> tuple[dict[str, Any], list[tuple[str, ...]]]:
    """The recurrence on stubs; the map of a query holds the number of the round that made it."""

    def propose(queries: tuple[str, ...], round_: int) -> torch.Tensor:
        return torch.full((len(queries), 1, 1), float(round_))

    def score(queries: tuple[str, ...], maps: torch.Tensor) -> torch.Tensor:
        return torch.tensor([scores[query][int(maps[0])] for query in queries])

    return recur(tuple(scores), propose, score, keep_above)


def test_the_recurrence_drops_until_a_round_drops_none() -> None:
    maps, rounds = run({"a": [0.9, 0.9, 0.9], "b": [0.9, 0.1], "c": [0.2], "d": [0.7, 0.7, 0.7]})
    assert rounds == [("a", "b", "d"), ("a", "d"), ("a", "d")]
    assert {name: float(made) for name, made in maps.items()} == {"a": 2, "b": 1, "c": 0, "d": 2}


def test_the_best_query_stays_when_none_passes() -> None:
    _, rounds = run({"a": [0.1], "b": [0.3, 0.2], "c": [0.2]})
    assert rounds == [("b",), ("b",)]
    assert run({"a": [0.0]})[1] == [("a",)]


@given(st.lists(st.lists(st.floats(0, 1), min_size=9, max_size=9), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_the_kept_set_only_shrinks_and_the_loop_ends(table: list[list[float]]) -> None:
    names = {str(number): row for number, row in enumerate(table)}
    maps, rounds = run(names)
    assert set(maps) == set(names)
    sizes = [len(names), *map(len, rounds)]
    assert sizes[-1] == sizes[-2] >= 1
    assert all(later < earlier for earlier, later in pairwise(sizes[:-1]))
    assert all(set(later) <= set(earlier) for earlier, later in pairwise(rounds))


def test_a_folder_opens_and_explains(tmp_path: Path, picture: torch.Tensor) -> None:
    folder, options = METHODS_TINY_UNET["clip-as-rnn"](tmp_path)
    method = method_named("clip-as-rnn").load(folder, device="cpu", **options)
    image = Image.fromarray(picture.numpy()).resize((40, 24))
    maps = method.explain(image, ["sun", "house", "sky"])
    assert maps.scores.shape == (3, 8, 8)
    assert maps.scores.dtype == torch.float32
    assert 0 <= maps.scores.min() < maps.scores.max() <= 1
    assert maps.recipe is None
    assert maps.model_id == folder
    assert maps.details["settings"] == method.settings
    assert method.settings["scorer"] == options["scorer"]
    assert set(maps.details["kept"][0]) <= {"sun", "house", "sky"}
    assert torch.equal(method.explain(image, ["sun", "house", "sky"], seed=5).scores, maps.scores)
    maps.save(tmp_path / "saved")
    paper = method_named("clip-as-rnn").load(folder, device="cpu", **options, protocol="paper")
    assert not torch.equal(paper.explain(image, ["sun", "house", "sky"]).scores, maps.scores)


def test_a_single_concept_needs_the_background(clip: Clip, picture: torch.Tensor) -> None:
    image = Image.fromarray(picture.numpy())
    with pytest.raises(ConceptError, match="the one concept 'sun' has nothing to compete with"):
        ClipAsRnn(clip, clip, size=SIDE, background=False).explain(image, ["sun"])
    alone = ClipAsRnn(clip, clip, size=SIDE).explain(image, ["sun"])
    assert alone.details["kept"] == [["sun"]]
    both = ClipAsRnn(clip, clip, size=SIDE, background=False, keep_above=1.0).explain(image, ["sun", "house"])
    assert [len(kept) for kept in both.details["kept"]] == [1, 1]
    assert both.scores.flatten(1).any(dim=1).all(), "the last one still competes with the one that was dropped"


def test_the_word_lists() -> None:
    assert len(set(BACKGROUNDS)) == len(BACKGROUNDS) == 23
    assert len(set(SCORING_TEMPLATES)) == 15
    assert all(template.count("{}") == 1 for template in SCORING_TEMPLATES)


def test_impossible_settings_are_refused(clip: Clip) -> None:
    with pytest.raises(RecipeError, match="size must be a multiple of the patch size 4; got 33"):
        ClipAsRnn(clip, clip, size=33)
    with pytest.raises(RecipeError, match=r"threshold must be from 0 to 1; got 1\.5"):
        ClipAsRnn.load("no/such-model", threshold=1.5)
    with pytest.raises(RecipeError, match="no option 'sise'"):
        ClipAsRnn.load("no/such-model", sise=1)


def test_without_pydensecrf_the_crf_is_refused(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="crf=True needs the package pydensecrf, which is not installed"):
        ClipAsRnn(clip, clip, size=SIDE, crf=True)


CRF = """
import numpy as np


class DenseCRF2D:
    def __init__(self, width, height, labels):
        self.shape = (labels, height * width)

    def setUnaryEnergy(self, energy):
        assert energy.shape == self.shape
        self.energy = energy

    def addPairwiseGaussian(self, sxy, compat):
        pass

    def addPairwiseBilateral(self, sxy, srgb, rgbim, compat):
        assert rgbim.dtype == np.uint8 and rgbim.shape[0] * rgbim.shape[1] == self.shape[1]

    def inference(self, rounds):
        return np.exp(-self.energy)
"""


def test_the_crf_sees_labels_and_pixels_in_its_own_order(
    clip: Clip, picture: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in that returns its input, so only the plumbing is under test, not the CRF."""
    (tmp_path / "pydensecrf").mkdir()
    (tmp_path / "pydensecrf" / "__init__.py").touch()
    (tmp_path / "pydensecrf" / "densecrf.py").write_text(CRF)
    unary = "import numpy as np\ndef unary_from_softmax(p):\n    return -np.log(p.clip(1e-5)).reshape(len(p), -1)\n"
    (tmp_path / "pydensecrf" / "utils.py").write_text(unary)
    monkeypatch.syspath_prepend(tmp_path)
    image = Image.fromarray(picture.numpy())
    plain = ClipAsRnn(clip, clip, size=SIDE).explain(image, ["sun", "house"]).scores
    refined = ClipAsRnn(clip, clip, size=SIDE, crf=True).explain(image, ["sun", "house"]).scores
    wanted = F.interpolate(plain[None], (SIDE, SIDE), mode="bilinear")[0].clamp(min=1e-5)
    torch.testing.assert_close(refined, wanted, rtol=1e-4, atol=1e-6)


def test_models_that_are_no_clip_are_refused(clip: Clip, demo: Session, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="clip-as-rnn runs on two CLIP models; got a Session. Open it with load"):
        ClipAsRnn(demo)
    with pytest.raises(ModelError, match="got a NoneType"):
        ClipAsRnn(clip)
    ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a vit model; a CLIP model is needed"):
        load_clip(tmp_path, "cpu")
    with pytest.raises(ModelError, match="cannot load model '/nowhere/at/all'"):
        load_clip("/nowhere/at/all", "cpu")
