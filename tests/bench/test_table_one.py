"""Table 1 in miniature: its rows, its data, its agreement with the paper."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import conceptlens as cl
from command_line import here
from conceptlens.bench.counts import BINARY_FIELDS, BinaryCounts
from conceptlens.bench.datasets import dataset_named
from conceptlens.bench.datasets.scenes import GROUNDS, NOUNS, SPLITS, make_scene
from conceptlens.bench.paper import TABLE_1
from conceptlens.bench.protocol import protocol_named
from conceptlens.bench.report import Estimate, Report
from conceptlens.bench.rows import RunError
from conceptlens.bench.table_one import ROWS, SINGLE, TableRow, paired, rank_agreement, rows_of_the_zoo, spec_of
from conceptlens.methods import method_named
from conceptlens.values.errors import ModelError

ZOO = Path(__file__).parents[2] / "zoo"


def test_the_rows_are_those_of_the_paper_and_each_names_a_method() -> None:
    assert [(row.method, row.family) for row in ROWS] == list(TABLE_1)
    for row in ROWS:
        method_named(row.method)
        spec_of(row, SINGLE)


def test_a_scene_of_one_object_has_its_mask_and_its_noun() -> None:
    data = dataset_named(SINGLE).open(None)
    for number, id_ in enumerate(data.ids()[:26]):
        sample = data.sample(id_)
        scene = make_scene(int(id_), nouns=(NOUNS[int(id_) % 13],))
        assert data.classes[sample.present[0]] == scene.objects[0].noun
        assert int(id_) == SPLITS["test"] + number
        assert np.array_equal(sample.labels == 1, scene.mask(scene.objects[0].noun))
    assert {data.sample(id_).present[0] for id_ in data.ids()[:13]} == set(range(13))


def test_words_beside_the_target_are_those_of_the_scenes() -> None:
    rules = protocol_named("fixed", dataset_named(SINGLE), "daam", streams=False)
    assert rules.distractors == ("sky", *GROUNDS)
    other = protocol_named("fixed", dataset_named("imagenet-seg"), "daam", streams=False)
    assert other.distractors == ("background", "floor", "tree", "person", "grass", "face")


def report_of(accuracies: list[float]) -> Report:
    """Images of 100 pixels, half of them foreground, with as many right on either side."""
    rows = []
    for number, accuracy in enumerate(accuracies):
        right = round(50 * accuracy)
        counts = dict(zip(BINARY_FIELDS, (right, 50 - right, 50 - right, right, 0, 0), strict=True))
        rows.append({"id": str(number), "counts": counts, "scores": {}, "seconds": 1.0})
    return Report({"settings": {}}, rows)


def values(estimate: Estimate) -> list[float]:
    return [estimate.value, estimate.low, estimate.high]


def test_agreement_with_the_paper_is_one_in_its_order_and_minus_one_in_the_reverse() -> None:
    rows = sorted(ROWS[:6], key=lambda row: TABLE_1[row.method, row.family].imagenet[1])
    rising = {row: report_of([0.3 + 0.03 * place] * 8) for place, row in enumerate(rows)}
    assert values(rank_agreement(rising, "imagenet")) == pytest.approx([1, 1, 1])
    falling = dict(zip(rows, reversed(list(rising.values())), strict=True))
    assert values(rank_agreement(falling, "imagenet")) == pytest.approx([-1, -1, -1])


def test_agreement_is_uncertain_where_images_disagree() -> None:
    first, second, third = (row for row in ROWS if row.method in ("lrp", "rollout", "gradcam"))
    mixed = {first: report_of([0.2, 0.9] * 6), second: report_of([0.9, 0.2] * 6), third: report_of([0.6] * 12)}
    found = rank_agreement(mixed, "imagenet")
    assert found.low < found.value < found.high


def test_the_paired_mean_iou_is_a_function_of_accuracy() -> None:
    counts = BinaryCounts(tp=20, fp=7, fn=3, tn=70)
    accuracy = counts.accuracy()
    assert paired(Estimate(accuracy, accuracy, accuracy)).value == pytest.approx(counts.iou("paired"))


def test_rows_without_a_model_are_named_and_a_zoo_without_any_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, missing = rows_of_the_zoo()
    assert TableRow("concept-attention", "FLUX.1", "neutral") in there
    assert [row for row in ROWS if row in there or row in missing] == list(ROWS)
    assert not set(there) & set(missing)
    monkeypatch.setenv("CONCEPTLENS_ZOO", str(tmp_path))
    with pytest.raises(RunError, match="none of the models vit, clip"):
        rows_of_the_zoo()


def test_a_model_of_the_zoo_has_a_name_and_results_call_it_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    session = cl.load("zoo:neutral")
    assert session.model_id == "zoo:neutral"
    assert session.recipe().layers == (3, 4), "the folder's own defaults"
    with pytest.raises(ModelError, match=r"no zoo:neutral2 in the zoo. Known: .*zoo:neutral"):
        cl.load("zoo:neutral2")
    monkeypatch.setenv("CONCEPTLENS_ZOO", str(tmp_path / "none"))
    with pytest.raises(ModelError, match="no zoo of models at .*none. Set CONCEPTLENS_ZOO"):
        cl.load("zoo:neutral")


def test_the_command_writes_tables_and_a_figure_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    (zoo / "neutral").symlink_to(ZOO / "neutral")
    out = tmp_path / "table"
    monkeypatch.setenv("CONCEPTLENS_ZOO", "")  # which the command sets, and the test gives back
    command = ("bench", "table", "--zoo", str(zoo), "--limit", "2", "--out", str(out))
    assert here(monkeypatch, *command) == 0
    table = (out / "scenes-single.md").read_text()
    assert "| concept-attention | neutral | 0." in table
    assert "| dino | dino (not trained yet) |" in table
    assert (out / "methods.png").stat().st_size > 5000
    rows = out / SINGLE / "concept-attention-neutral" / "rows.jsonl"
    before = rows.read_bytes()
    first = json.loads(before.splitlines()[0])
    assert first["scores"]["auc"] > 0.9
    assert here(monkeypatch, *command) == 0
    assert rows.read_bytes() == before
