"""What is known about the official evaluation, as figures: each fact is computed here, not quoted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import average_precision_score
from torchmetrics.classification import MulticlassJaccardIndex

from conceptlens.bench.counts import BinaryCounts, ClassCounts
from conceptlens.bench.datasets.base import Sample
from conceptlens.bench.datasets.pascal_voc import CLASSES, PascalVOCMulti, PascalVOCSingle
from conceptlens.bench.datasets.storybook import StorybookScenes
from conceptlens.bench.metrics import average_precision, pooled_average_precision
from conceptlens.bench.paper import TABLE_1, TABLE_3, TABLE_4, paper_figures
from conceptlens.bench.protocol import Concept, Protocol, ProtocolError, protocol_named, protocols
from conceptlens.bench.scoring import binary_mask, fit_labels, relabel_sequentially, score_image

SINGLE = Protocol("fixed", "single")


CAT = (Concept("cat", 0),)


def holding(*present: int) -> Sample:
    return Sample("x", Image.new("RGB", (4, 4)), np.zeros((4, 4), np.int32), present)


def words(concepts: Sequence[Concept]) -> list[str]:
    return [concept.name for concept in concepts]


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_paired_iou_is_a_function_of_accuracy_and_the_standard_one_is_not(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask, labels = rng.random((9, 8)) < 0.3, (rng.random((9, 8)) < 0.5).astype(np.int32)
    labels[0, :2] = [0, 1]
    counts = BinaryCounts.of(mask, labels)
    accuracy = counts.accuracy()
    assert counts.iou("paired") == pytest.approx(accuracy / (2 - accuracy), abs=1e-12)
    # The official histogram: mask and complement stacked, both channels in one table.
    predicted, truth = np.stack([~mask, mask]), np.stack([labels == 0, labels == 1])
    inter = [int((predicted == truth)[truth == v].sum()) for v in (False, True)]
    union = [int((predicted == v).sum() + (truth == v).sum()) - inter[int(v)] for v in (False, True)]
    assert inter[0] == inter[1]
    assert counts.iou("paired") == pytest.approx(np.mean([i / u for i, u in zip(inter, union, strict=True)]), abs=1e-12)


def test_the_two_ious_differ_as_computed() -> None:
    counts = BinaryCounts(tp=10, fp=5, fn=15, tn=70)
    assert counts.accuracy() == pytest.approx(0.80)
    assert counts.iou("paired") == pytest.approx(0.80 / 1.20)
    assert counts.iou("standard") == pytest.approx((10 / 30 + 70 / 90) / 2)


def test_paper_rows_marked_paired_satisfy_the_identity_and_the_others_do_not() -> None:
    for row in TABLE_1.values():
        accuracy, miou, _ = (v / 100 for v in row.imagenet)
        gap = abs(miou - accuracy / (2 - accuracy))
        assert (gap < 2e-4) == row.paired, row
    for triple in (*TABLE_3.values(), *TABLE_4.values()):
        accuracy, miou, _ = (v / 100 for v in triple)
        assert miou == pytest.approx(accuracy / (2 - accuracy), abs=1.5e-4)


def test_void_accounting_on_three_pixels() -> None:
    labels = np.array([[1, 0, -1]], np.int32)
    counts = BinaryCounts.of(np.array([[True, False, True]]), labels)
    assert counts.accuracy() == 1.0
    assert counts.accuracy("wrong") == pytest.approx(2 * 2 / (2 * 2 + 1))
    assert (counts.void, counts.void_predicted) == (1, 1)
    assert BinaryCounts(tp=1, fp=0, fn=0, tn=1, void=3, void_predicted=1).accuracy("wrong") == pytest.approx(4 / 7)
    classes = ClassCounts.of(np.array([[1, 0, 1]]), labels, 2)
    assert classes.iou() == 1.0
    assert classes.class_iou(void_in_union=True)[1] == pytest.approx(0.5)


@given(st.integers(0, 10_000), st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_pooled_ap_equals_scikit_learn_with_ties(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, levels, 40) / levels).astype(np.float32)
    truth = rng.random(40) < 0.3
    pooled = np.concatenate([np.float32(1) - scores, scores])
    expected = average_precision_score(np.concatenate([~truth, truth]), pooled)
    assert pooled_average_precision(scores, truth, normalize=False) == pytest.approx(expected, abs=1e-12)


def test_raw_pooled_ap_rewards_tiny_scores() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(100_000) < 0.25
    noise = rng.random(100_000)
    assert pooled_average_precision(noise, truth) == pytest.approx(0.50, abs=0.01)
    assert pooled_average_precision(1e-3 * noise, truth, normalize=False) == pytest.approx(0.71, abs=0.01)
    rare = rng.random(100_000) < 0.15
    assert pooled_average_precision(1e-3 * noise, rare, normalize=False) == pytest.approx(0.82, abs=0.01)
    constant = np.full(100_000, 1e-3)
    assert pooled_average_precision(constant, truth, normalize=False) == pytest.approx(0.685, abs=0.005)
    assert average_precision(noise, truth) == pytest.approx(0.25, abs=0.01)


def test_a_constant_map_has_no_mask_and_half_an_ap() -> None:
    labels = np.zeros((4, 4), np.int32)
    labels[:2] = 1
    sample = Sample("x", Image.new("RGB", (4, 4)), labels, (0,))
    scored = score_image(torch.full((1, 4, 4), 0.3), CAT, sample, 1, SINGLE, background=False)
    assert scored.counts["tp"] == scored.counts["fp"] == 0
    assert scored.scores["ap_pooled_minmax"] == 0.5


@pytest.mark.parametrize("level", [0.1, 0.3, 0.7])
def test_enlarging_makes_no_pixels_out_of_a_map_that_says_nothing(level: float) -> None:
    labels = np.zeros((90, 70), np.int32)
    labels[:40] = 1
    sample = Sample("x", Image.new("RGB", (70, 90)), labels, (0,))
    chefer = Protocol("chefer", "single", label_size=224, stretch=True)
    scored = score_image(torch.full((1, 16, 16), level), CAT, sample, 1, chefer, background=False)
    assert scored.counts["tp"] == scored.counts["fp"] == 0
    assert scored.scores["auc"] == scored.scores["ap_pooled_minmax"] == 0.5
    full = Protocol("full-vocab", "multi", mask="argmax", candidates="all")
    everything = tuple(Concept(f"class {n}", n) for n in range(40))
    same = torch.rand(16, 16, 1).expand(-1, -1, 40).contiguous().permute(2, 0, 1)
    for scores in (torch.full((40, 1, 1), level), same):
        counts = score_image(scores, everything, sample, 40, full, background=False).counts["classes"]
        assert counts["0"] == [50 * 70, 90 * 70, 50 * 70, 0], "equal scores are the first class everywhere"


@pytest.mark.parametrize("name", ["background", "Background", "tree"])
def test_a_class_counts_by_its_number_whatever_it_is_called(name: str) -> None:
    classes = (name, "house", "background" if name == "tree" else "sky")
    labels = np.array([[0, 1], [2, -1]], np.int32)
    sample = Sample("x", Image.new("RGB", (2, 2)), labels, (0, 1, 2))
    for protocol in (Protocol("fixed", "multi", mask="argmax"), Protocol("v", "multi", ("tree", "sky"), mask="argmax")):
        concepts = protocol.concepts(sample, classes)
        assert [number for _, number in concepts][:3] == [0, 1, 2]
        scores = torch.zeros(len(concepts), 2, 2)
        scores[0, 0, 0] = scores[1, 0, 1] = scores[2, 1, 0] = 1
        scored = score_image(scores, concepts, sample, 3, protocol, background=False)
        assert scored.scores["accuracy"] == scored.scores["iou"] == 1.0


def test_two_classes_of_one_name_are_two_classes() -> None:
    sample = Sample("x", Image.new("RGB", (2, 1)), np.array([[3, 1]], np.int32), (3, 1))
    concepts = Protocol("fixed", "multi").concepts(sample, ("tree", "sky", "sea", "tree"))
    assert concepts == (("tree", 3), ("sky", 1))
    scores = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    scored = score_image(scores, concepts, sample, 4, Protocol("fixed", "multi", mask="argmax"), background=False)
    assert scored.counts["classes"] == {"1": [1, 1, 1, 0], "3": [1, 1, 1, 0]}


def test_the_mean_threshold_is_strict_and_taken_on_the_native_grid() -> None:
    scores = torch.tensor([[[0.0, 0.5], [0.5, 1.0]]])
    assert binary_mask(scores, 0, [], SINGLE).tolist() == [[False, False], [False, True]]
    paper = Protocol("paper", "single", label_size=8, score_filter="nearest")
    labels = np.zeros((16, 16), np.int32)
    labels[8:, 8:] = 1
    sample = Sample("x", Image.new("RGB", (16, 16)), labels, (0,))
    scored = score_image(scores, CAT, sample, 1, paper, background=False)
    assert scored.counts == {"tp": 16, "fp": 0, "fn": 0, "tn": 48, "void": 0, "void_predicted": 0}


def test_the_mean_threshold_of_a_stretched_map_is_strict_too() -> None:
    labels = np.zeros((2, 2), np.int32)
    labels[1, 1] = 1
    sample = Sample("x", Image.new("RGB", (2, 2)), labels, (0,))
    scores = torch.tensor([[[0.0, 0.5], [0.5, 1.0]]])
    scored = score_image(scores, CAT, sample, 1, replace(SINGLE, stretch=True), background=False)
    assert scored.counts == {"tp": 1, "fp": 0, "fn": 0, "tn": 3, "void": 0, "void_predicted": 0}


def test_argmax_masks_take_the_target_where_no_distractor_wins() -> None:
    scores = torch.tensor([[[0.2, 0.9]], [[0.5, 0.05]], [[0.3, 0.05]]])
    protocol = Protocol("paper", "single", mask="argmax")
    assert binary_mask(scores, 1, [0, 2], protocol).tolist() == [[True, False]]


def test_sequential_relabelling_merges_classes_and_the_lookup_does_not() -> None:
    assert [CLASSES.index(name) for name in ("bus", "car")] == [6, 7]
    winner = np.array([[0, 4, 5, 6]])
    assert relabel_sequentially(winner, 5, [6, 7]).tolist() == [[0, 0, 7, 7]]
    assert relabel_sequentially(winner, 5, [1, 7]).tolist() == [[0, 0, 1, 7]]
    distractors = [Concept(name, -1) for name in ("background", "floor", "grass", "tree", "sky")]
    concepts = (*distractors, Concept("bus", 6), Concept("car", 7))
    scores = torch.zeros(7, 1, 2)
    scores[5, 0, 0] = scores[6, 0, 1] = 1
    sample = Sample("x", Image.new("RGB", (2, 1)), np.array([[6, 7]], np.int32), (6, 7))
    right, wrong = (
        score_image(scores, concepts, sample, len(CLASSES), p, background=True).scores["accuracy"]
        for p in (
            Protocol("fixed", "multi", mask="argmax"),
            Protocol("paper", "multi", mask="argmax", relabel="sequential"),
        )
    )
    assert (right, wrong) == (1.0, 0.5)


@pytest.mark.parametrize(("size", "side"), [((5, 7), 224), ((500, 375), 224), ((333, 500), 64)])
def test_labels_shrink_as_pil_does_and_scores_as_torch_does(size: tuple[int, int], side: int) -> None:
    labels = np.random.default_rng(0).integers(-1, 21, size).astype(np.int32)
    small = fit_labels(labels, Protocol("paper", "single", label_size=side))
    expected = Image.fromarray((labels + 1).astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
    assert np.array_equal(small, np.asarray(expected).astype(int) - 1)
    rows, cols = (torch.arange(side) * n // side for n in size)
    torched = F.interpolate(torch.from_numpy(labels)[None, None].float(), (side, side), mode="nearest")[0, 0]
    assert torch.equal(torched, torch.from_numpy(labels)[rows[:, None], cols[None]].float())


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_class_counts_equal_torchmetrics_and_add_up(seed: int) -> None:
    rng = np.random.default_rng(seed)
    predicted, labels = rng.integers(0, 4, (2, 6, 6)), rng.integers(-1, 4, (2, 6, 6)).astype(np.int32)
    labels[:, 0, :4] = range(4)
    both = ClassCounts.of(predicted[0], labels[0], 4) + ClassCounts.of(predicted[1], labels[1], 4)
    metric = MulticlassJaccardIndex(4, ignore_index=-1)
    assert both.iou() == pytest.approx(
        metric(torch.from_numpy(predicted), torch.from_numpy(labels).long()).item(), abs=1e-6
    )
    whole = ClassCounts.of(predicted.reshape(12, 6), labels.reshape(12, 6), 4)
    assert np.array_equal(both.intersection, whole.intersection)
    masks = [BinaryCounts.of(p > 1, (y > 1).astype(np.int32)) for p, y in zip(predicted, labels, strict=True)]
    assert masks[0] + masks[1] == BinaryCounts.of(
        predicted.reshape(12, 6) > 1, (labels.reshape(12, 6) > 1).astype(np.int32)
    )


def test_concepts_and_captions_are_those_of_the_scripts() -> None:
    from conceptlens.bench.datasets.imagenet_seg import ImageNetSegmentation

    paper = protocol_named("paper", ImageNetSegmentation, "concept-attention", streams=True)
    names = ["background", "floor", "tree", "person", "grass", "face"]
    assert paper.concepts(holding(0), ("dog",)) == (("dog", 0), *((name, -1) for name in names))
    assert paper.caption(holding(0), ("dog",)) == "a dog"
    assert paper.blur
    assert not protocol_named("paper", ImageNetSegmentation, "cross-attention", streams=True).blur
    single = protocol_named("paper", PascalVOCSingle, "concept-attention", streams=True)
    assert words(single.concepts(holding(0), ("cow",))) == ["background", "floor", "grass", "tree", "sky", "cow"]
    lone = protocol_named("paper", PascalVOCSingle, "dino", streams=False)
    assert words(lone.concepts(holding(0), ("cow",))) == ["cow"]
    multi = protocol_named("paper", PascalVOCMulti, "concept-attention", streams=True)
    cow, person = CLASSES.index("cow"), CLASSES.index("person")
    assert multi.caption(holding(cow, person), CLASSES) == "a cow,a person"
    full = protocol_named("full-vocab", PascalVOCMulti, "concept-attention", streams=True)
    asked = full.concepts(holding(cow), CLASSES, background=True)
    assert [number for _, number in asked] == [*range(1, 21), -1, -1, -1, -1, -1]
    assert full.caption(holding(cow), CLASSES) == ""


def test_an_unknown_protocol_names_those_that_exist() -> None:
    with pytest.raises(ProtocolError, match="scenes has no protocol 'paper'. Known: fixed, full-vocab, gt-prompt"):
        protocol_named("paper", StorybookScenes, "concept-attention", streams=True)


def test_every_field_of_a_protocol_is_told() -> None:
    every = set(Protocol.__dataclass_fields__)
    for dataset in (PascalVOCMulti, PascalVOCSingle, StorybookScenes):
        for protocol in protocols(dataset, "concept-attention", streams=True).values():
            unset = {"background_below"} if protocol.background_below is None else set()
            assert set(protocol.to_dict()) == every - unset


def test_textspans_own_evaluation_subtracts_the_mean_over_the_classes() -> None:
    """Class minus the mean of all, enlarged, clipped at 0, stretched to 0..1, masked above its mean; AP of that map."""
    own = protocol_named("gandelsman", PascalVOCSingle, "textspan", streams=False)
    own = replace(own, image_size=None, label_size=8)
    asked = own.concepts(holding(9), CLASSES[1:])
    assert words(asked)[: len(CLASSES) - 1] == list(CLASSES[1:])
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 4, 4, generator=random) + 5
    labels = (torch.rand(8, 8, generator=random) < 0.4).numpy().astype(np.int32)
    sample = Sample("x", Image.new("RGB", (8, 8)), labels, (0,))
    concepts = (Concept("dog", 1), Concept("cow", 0), Concept("sky", -1))
    scored = score_image(scores, concepts, sample, 2, own, background=False)
    centred = scores[1] - (scores[0] + scores[1] + scores[2]) / 3
    map_ = F.interpolate(centred[None, None], (8, 8), mode="bilinear")[0, 0].clamp(min=0)
    map_ = ((map_ - map_.min()) / (map_.max() - map_.min())).numpy()
    mask, truth = map_ > map_.mean(), labels == 1
    assert (scored.counts["tp"], scored.counts["fp"]) == (int((mask & truth).sum()), int((mask & ~truth).sum()))
    expected = average_precision_score(np.stack([~truth, truth]).ravel(), np.stack([1 - map_, map_]).ravel())
    assert scored.scores["ap_pooled_minmax"] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ProtocolError, match="no protocol 'gandelsman'"):
        protocol_named("gandelsman", PascalVOCSingle, "dino", streams=False)


def test_paper_figures_follow_the_model_family() -> None:
    assert paper_figures("imagenet-seg", "concept-attention", "black-forest-labs/FLUX.1-schnell") == (
        83.07,
        71.04,
        90.45,
    )
    assert paper_figures("voc-single", "daam", "stabilityai/stable-diffusion-xl-base-1.0") == (72.76, 55.95, 88.34)
    assert paper_figures("voc-multi", "concept-attention", "x") == (86.99, 51.39)
    assert paper_figures("imagenet-seg", "concept-attention", "demo") is None
    assert paper_figures("scenes", "concept-attention", "demo") is None


def test_a_threshold_for_the_background_is_on_stretched_maps_of_all_classes() -> None:
    """Scores of any unit: a pixel is background where the map of its winner is in the lower half of its range."""
    rules = protocol_named("bg-threshold", PascalVOCMulti, "concept-attention", streams=True)
    assert (rules.background_below, rules.candidates, rules.prompt, rules.distractors) == (0.5, "all", "none", ())
    scores = torch.tensor([[[8.0, 4.1, 3.9, 0.0]], [[0.0, 0.0, 0.0, 100.0]]])
    labels = np.array([[1, 0, 0, 2]], np.int32)
    sample = Sample("x", Image.new("RGB", (4, 1)), labels, (1, 2))
    concepts = (Concept("cat", 1), Concept("dog", 2))
    scored = score_image(scores, concepts, sample, 3, rules, background=True)
    # Class by class: right, predicted, labelled, and predicted on void pixels.
    assert scored.counts["classes"] == {"0": [1, 1, 2, 0], "1": [1, 2, 1, 0], "2": [1, 1, 1, 0]}
    assert "background_below" in rules.to_dict()
    assert "background_below" not in replace(rules, background_below=None).to_dict()
    with pytest.raises(ProtocolError, match="scenes has no protocol 'bg-threshold'"):
        protocol_named("bg-threshold", StorybookScenes, "concept-attention", streams=True)
