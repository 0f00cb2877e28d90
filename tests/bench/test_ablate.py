"""Ablations: one thing varies, and each row is what a run of its own would give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conceptlens.bench.ablate import AXES, AblationError, ablate, variants
from conceptlens.bench.figures import draw
from conceptlens.bench.paper import TABLE_3, TABLE_4
from conceptlens.bench.report import Report
from conceptlens.bench.runs import run
from conceptlens.bench.scorer import RunSpec
from conceptlens.bench.tables import ablation_table
from tiny_models import flux_pipeline
from tiny_unets import saved

SPEC = RunSpec("scenes")


def scores(report: Report) -> list[dict]:
    return [{"id": row["id"], "counts": row["counts"], "scores": row["scores"]} for row in report.rows]


def test_rows_with_a_shared_reading_equal_rows_of_single_runs(tmp_path: Path) -> None:
    reports = ablate(SPEC, "space", tmp_path, limit=2)
    assert list(reports) == list(TABLE_3)
    for name, method, options in [
        ("output, softmax", "concept-attention", {}),
        ("output, raw", "concept-attention", {"softmax": False}),
        ("cross, softmax", "cross-attention", {}),
        ("value, raw", "value-similarity", {"softmax": False}),
    ]:
        alone = Report(*run(RunSpec("scenes", method, options=options), limit=2))
        assert scores(reports[name]) == scores(alone), name


def test_rows_of_refinements_equal_those_of_single_runs(tmp_path: Path) -> None:
    reports = ablate(SPEC, "refine", tmp_path, limit=1)
    for name, options in (("plain", {}), ("joint-bilateral", {"refine": ("joint-bilateral",)})):
        assert scores(reports[name]) == scores(Report(*run(replace(SPEC, options=options), limit=1))), name
    assert scores(reports["plain"]) != scores(reports["joint-bilateral"])


def test_attention_table_and_its_figure(tmp_path: Path) -> None:
    reports = ablate(SPEC, "attention", tmp_path, limit=2, command="conceptlens bench ablate attention")
    assert list(reports) == list(TABLE_4)
    assert scores(reports["neither"]) != scores(reports["cross only"])
    table = ablation_table(reports, "attention", "conceptlens bench ablate attention")
    assert "83.07 / 71.04 / 90.45" in table.markdown()
    draw(reports, "attention", [tmp_path / "f.png", tmp_path / "f.svg"])
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "f.svg").read_text()


def test_an_ablation_goes_on_where_it_stopped(tmp_path: Path) -> None:
    ablate(SPEC, "concepts", tmp_path, limit=1)
    reports = ablate(SPEC, "concepts", tmp_path, limit=2)
    assert {len(r.rows) for r in reports.values()} == {2}
    rows = [r.rows[0]["scores"]["accuracy"] for r in reports.values()]
    assert rows[0] == Report(*run(SPEC, limit=1)).rows[0]["scores"]["accuracy"]
    assert len(set(rows)) > 1


def test_official_settings_differ_between_rows_and_ours_do_not() -> None:
    ours = variants("attention", 19)
    assert {tuple(sorted(set(v.options) - {"cross_attention", "self_attention"})) for v in ours} == {()}
    official = {v.name: v.options for v in variants("attention", 19, official=True)}
    assert official["neither"]["noise"] == 0.75
    assert official["neither"]["softmax"] is False
    assert (official["cross and self"]["noise"], official["cross and self"]["samples"]) == (0.5, 5)
    assert {v.options["noise"] for v in variants("space", 19, official=True)} == {0.75}


def test_official_sweeps_miss_a_comma() -> None:
    for axis in ("layers", "noise"):
        assert {v.distractors for v in variants(axis, 19, official=True)} == {
            ("backgroundfloor", "tree", "person", "face")
        }
        assert {v.distractors for v in variants(axis, 19)} == {None}
        assert {v.options["softmax"] for v in variants(axis, 19, official=True)} == {False}


def test_official_rows_read_the_layers_that_the_official_command_sets_on_a_flux_of_19_blocks(tmp_path: Path) -> None:
    model = saved(lambda: flux_pipeline(num_layers=19), tmp_path / "flux")
    write_pair(tmp_path)
    spec = RunSpec("folder", protocol="paper", model=str(model), data=str(tmp_path))
    alone = Report(*run(spec, limit=0))
    reports = ablate(spec, "attention", tmp_path / "out", limit=0)
    layers = [tuple(r.settings["method_settings"]["layers"]) for r in (alone, *reports.values())]
    assert layers == [(14, 15, 16, 17)] * 5
    mine = replace(spec, options={"layers": (2, 3)})
    assert Report(*run(mine, limit=0)).settings["method_settings"]["layers"] == (2, 3)


def write_pair(folder: Path) -> None:
    for inner in ("images", "masks"):
        (folder / inner).mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "images" / "house-1.png")
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(folder / "masks" / "house-1.png")


@pytest.mark.filterwarnings("ignore:demo was never trained")
def test_an_official_sweep_runs_with_its_own_words(tmp_path: Path) -> None:
    write_pair(tmp_path)
    reports = ablate(RunSpec("folder", protocol="paper", data=str(tmp_path)), "layers", tmp_path / "out")
    told = reports["layer 3"].settings
    assert told["protocol"]["distractors"] == ["backgroundfloor", "tree", "person", "face"]
    assert told["method_settings"]["noise"] == 0.7595
    assert told["method_settings"]["layers"] == [3]


def test_every_axis_has_variants_with_names_of_their_own() -> None:
    for axis in AXES:
        names = [v.name for v in variants(axis, 6)]
        assert len(names) == len(set(names)) > 1
    assert len(variants("layers", 6)) == 6
    with pytest.raises(AblationError, match="no ablation 'width'. Known: space"):
        variants("width", 6)
