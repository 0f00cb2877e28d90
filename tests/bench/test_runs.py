"""Runs: interrupted anywhere, resumed, spread over processes: always the same rows."""

from __future__ import annotations

import json
import math
import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from command_line import here
from conceptlens.bench.ray_engine import blocks_for, rows_in_memory
from conceptlens.bench.report import Report, difference
from conceptlens.bench.report_file import from_text, to_text
from conceptlens.bench.rows import REPORT, ROWS, RUN, RowFile, RunError, fingerprint, read_rows
from conceptlens.bench.runs import run
from conceptlens.bench.scorer import RunSpec, Scorer, image_seed
from conceptlens.bench.tables import leaderboard
from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.methods.base import MethodInfo, SaliencyMethod

SPEC = RunSpec("scenes")
UNTRAINED = pytest.mark.filterwarnings("ignore:demo was never trained")
SETTINGS = {"method": "m", "protocol": {"name": "fixed"}, "seed": 0}


def canonical(folder: Path) -> bytes:
    """The rows, sorted, without the only field that no two runs share."""
    rows = [json.loads(line) for line in (folder / ROWS).read_text().splitlines()]
    for row in rows:
        assert row.pop("seconds") >= 0
    return "\n".join(sorted(json.dumps(row) for row in rows)).encode()


def test_resumed_equals_uninterrupted_byte_for_byte(tmp_path: Path) -> None:
    scorer = Scorer(SPEC)
    run(SPEC, tmp_path / "whole", limit=5, scorer=scorer)
    run(SPEC, tmp_path / "parts", limit=2, scorer=scorer)
    with (tmp_path / "parts" / ROWS).open("a") as file:
        file.write('{"id": "20000002", "counts"')  # the process died in the middle of a line
    header, rows = run(SPEC, tmp_path / "parts", limit=5, scorer=scorer)
    assert canonical(tmp_path / "parts") == canonical(tmp_path / "whole")
    assert [row["id"] for row in rows] == [str(20_000_000 + n) for n in range(5)]
    assert all(row["recipe"] == header["recipe"] == fingerprint(header["settings"]) for row in rows)


def test_settings_with_numbers_as_keys_go_on_where_they_stopped(tmp_path: Path) -> None:
    """JSON has text alone as keys, and as text 12 comes before 6."""
    settings = {"inner": {0: 20, 6: 20, 12: 20}}
    for rows in range(2):
        with RowFile(tmp_path, settings, {}) as file:
            assert len(file.rows) == rows
            file.append({"id": str(rows)})


def test_batches_give_the_rows_of_single_images_and_resume_to_the_same_bytes(tmp_path: Path) -> None:
    """Wherever a run stopped, an image meets the same others in its batch, so that no last digit changes."""
    scorer = Scorer(SPEC)
    _, alone = run(SPEC, limit=5, scorer=scorer)
    _, whole = run(SPEC, tmp_path / "whole", limit=5, scorer=scorer, batch=3)
    for one, other in zip(alone, whole, strict=True):
        assert (one["id"], one["counts"].keys()) == (other["id"], other["counts"].keys())
        for name, value in one["scores"].items():
            assert other["scores"][name] == pytest.approx(value, abs=2e-3)  # a pixel at a threshold
    for stopped in range(5):
        folder = tmp_path / f"after {stopped}"
        shutil.copytree(tmp_path / "whole", folder)
        lines = (folder / ROWS).read_text().splitlines(keepends=True)
        (folder / ROWS).write_text("".join(lines[:stopped]))
        run(SPEC, folder, limit=5, scorer=scorer, batch=3)
        assert canonical(folder) == canonical(tmp_path / "whole")


def test_images_of_a_batch_share_a_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    from conceptlens.readers import reading

    forwards: list[int] = []
    made = reading.record_pictures
    monkeypatch.setattr(reading, "record_pictures", lambda *given: forwards.append(given[-1]) or made(*given))
    run(SPEC, limit=5, scorer=Scorer(SPEC), batch=3)
    assert forwards == [3, 2]


@UNTRAINED
def test_a_bad_image_spoils_no_other_of_its_batch(folder: Path) -> None:
    (folder / "images" / "house-1.png").write_bytes(b"torn")
    spec = RunSpec("folder", data=str(folder))
    alone, together = run(spec)[1], run(spec, batch=3)[1]
    assert [row.get("error", "")[:21] for row in together] == ["", "cannot read the image", ""]
    for one, other in zip(alone, together, strict=True):
        assert one.get("error") == other.get("error")
        assert one.get("scores", {}) == pytest.approx(other.get("scores", {}), abs=2e-3)


def test_a_batch_too_large_for_the_memory_is_halved() -> None:
    scorer = Scorer(SPEC)
    ids, sizes = scorer.ids(5), []

    def explain_all(asked: Sequence[Any]) -> list[ConceptMaps]:
        sizes.append(len(asked))
        if len(asked) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return type(scorer).explain_all(scorer, asked)

    scorer.explain_all = explain_all  # type: ignore[method-assign]
    assert [row["id"] for row in rows_in_memory(scorer, ids)] == ids
    assert sizes == [5, 2, 3, 1, 2]
    sizes.append(0)
    scorer.explain_all = lambda asked: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory"))  # type: ignore[method-assign]
    with pytest.raises(torch.OutOfMemoryError):
        rows_in_memory(scorer, ids[:1])


@pytest.mark.parametrize(
    ("chunks", "workers", "blocks"), [(1, 8, 1), (12, 2, 12), (500, 8, 500), (4276, 8, 535), (1_000_000, 8, 62_500)]
)
def test_many_chunks_share_blocks(chunks: int, workers: int, blocks: int) -> None:
    assert blocks_for(chunks, workers) == blocks


def test_a_changed_recipe_is_an_error_not_a_mix(tmp_path: Path) -> None:
    scorer = Scorer(SPEC)
    run(SPEC, tmp_path, limit=1, scorer=scorer)
    before = (tmp_path / ROWS).read_bytes()
    with pytest.raises(RunError, match=r"holds a run with other settings: seed was 0, now 1"):
        run(RunSpec("scenes", seed=1), tmp_path, limit=2)
    with pytest.raises(RunError, match=r"method_settings.noise was 0\.\d+, now 0.7"):
        run(RunSpec("scenes", options={"noise": 0.7}), tmp_path, limit=2)
    assert (tmp_path / ROWS).read_bytes() == before


def test_foreign_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / ROWS).write_text('{"id": "1", "recipe": "beef"}\n')
    with pytest.raises(RunError, match="rows of another recipe"):
        RowFile(tmp_path, SETTINGS, {})


def test_two_processes_cannot_write_to_one_run(tmp_path: Path) -> None:
    with RowFile(tmp_path, SETTINGS, {}), pytest.raises(RunError, match="another process is writing"):
        RowFile(tmp_path, SETTINGS, {})
    RowFile(tmp_path, SETTINGS, {}).__exit__(None, None, None)


def test_a_whole_last_line_without_its_end_is_kept_apart_from_the_next(tmp_path: Path) -> None:
    with RowFile(tmp_path, SETTINGS, {}) as file:
        file.append({"id": "1"})
        recipe = file.recipe
    (tmp_path / ROWS).write_text(json.dumps({"id": "1", "recipe": recipe}))
    with RowFile(tmp_path, SETTINGS, {}) as file:
        file.append({"id": "2"})
    assert {row["id"] for row in read_rows(tmp_path)[1]} == {"1", "2"}


def write_rows(folder: Path) -> None:
    with RowFile(folder, SETTINGS, {}) as file:
        for number in range(400):
            if str(number) not in file.rows:
                file.append({"id": str(number), "counts": {"tp": number}, "pad": "x" * 4000})


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_killed_at_twenty_random_moments_no_row_is_lost_or_doubled(tmp_path: Path) -> None:
    chance = random.Random(7)
    rows = tmp_path / ROWS
    seen: set[str] = set()
    interrupted = 0
    for _ in range(20):
        process = multiprocessing.get_context("fork").Process(target=write_rows, args=(tmp_path,))
        process.start()
        size = rows.stat().st_size if rows.exists() else 0
        waited = time.monotonic()
        while process.is_alive() and time.monotonic() < waited + 20:  # until it has begun to write
            if rows.exists() and rows.stat().st_size != size:
                break
        time.sleep(chance.uniform(0, 0.005))
        process.kill()
        process.join()
        interrupted += process.exitcode == -signal.SIGKILL
        whole = rows.read_bytes().split(b"\n")[:-1]
        ids = [json.loads(line)["id"] for line in whole]
        assert seen <= set(ids), "a row was lost"
        assert len(ids) == len(set(ids)), "a row was doubled"
        seen = set(ids)
    assert interrupted >= 10
    write_rows(tmp_path)
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert sorted(int(row["id"]) for row in found) == list(range(400))
    assert all(row["counts"]["tp"] == int(row["id"]) for row in found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for inner in ("images", "masks"):
        (tmp_path / inner).mkdir()
    for number, size in enumerate([(64, 64), (96, 64), (64, 64)]):
        Image.new("RGB", size, (200, 40 * number, 40)).save(tmp_path / "images" / f"house-{number}.png")
        mask = np.zeros((size[1], size[0]), np.uint8)
        mask[20:40, 20:40] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"house-{number}.png")
    return tmp_path


@UNTRAINED
def test_bad_images_are_counted_and_tried_again(folder: Path, tmp_path: Path) -> None:
    good = (folder / "images" / "house-1.png").read_bytes()
    (folder / "images" / "house-1.png").write_bytes(b"torn")
    spec = RunSpec("folder", data=str(folder))
    report = Report(*run(spec, tmp_path / "run"))
    assert len(report.good) == 2
    assert [row["id"] for row in report.bad] == ["house-1"]
    assert "cannot read the image" in report.bad[0]["error"]
    assert report.summary()["bad_images"] == 1
    (folder / "images" / "house-1.png").write_bytes(good)
    again = Report(*run(spec, tmp_path / "run"))
    assert (len(again.good), len(again.bad)) == (3, 0)


def test_own_pictures_are_asked_as_read_asks(folder: Path) -> None:
    """No prompt names the target, and the model's own words for a background compete with it."""
    scorer = Scorer(RunSpec("folder", data=str(folder)))
    sample = scorer.data.sample("house-0")
    assert [concept.name for concept in scorer.concepts(sample)] == ["house", "sky", "grass", "sand", "snow", "sea"]
    assert scorer.rules.caption(sample, scorer.data.classes) == ""
    assert scorer.settings["protocol"]["distractors"] == ["sky", "grass", "sand", "snow", "sea"]
    session = scorer.method.session  # type: ignore[attr-defined]
    with pytest.warns(UserWarning, match="one word alone would win everywhere, so sky, grass"):
        alone = session.probe(session.read(sample.image, seed=image_seed(0, "house-0")), ["house"])
    torch.testing.assert_close(alone.scores[0], scorer.explain(sample, scorer.concepts(sample)).scores[0])


@UNTRAINED
@pytest.mark.parametrize("protocol", ["fixed", "paper", "chefer"])
def test_single_target_protocols_run_and_say_their_own_metrics(folder: Path, protocol: str) -> None:
    spec = RunSpec("folder", protocol=protocol, data=str(folder), options={"samples": 1})
    report = Report(*run(spec, limit=2))
    assert report.protocol["name"] == protocol
    metrics = report.metrics
    accuracy, miou = metrics["accuracy"].value, metrics["miou"].value
    if protocol == "paper":
        assert miou == pytest.approx(accuracy / (2 - accuracy))
        assert metrics["miou_standard"].value != pytest.approx(miou)
        assert report.settings["method_settings"]["preset"] == "paper"
    else:
        assert "miou_standard" not in metrics
    assert all(e.low <= e.value <= e.high for e in metrics.values())


class Unsteady(SaliencyMethod):
    """Scores that are no numbers for some of the pictures."""

    name, summary, info = "unsteady", "for tests", MethodInfo(text_conditioned=False)
    model_id, settings = "none", {}  # type: ignore[assignment]

    def __init__(self, *wrong: float) -> None:
        self.wrong = list(wrong)

    @classmethod
    def load(cls, model: Any = None, *, device: str | None = None, **options: Any) -> Unsteady:
        return cls()

    def explain(self, image: Image.Image, concepts: Sequence[str], *, prompt: str = "", seed: int = 0) -> ConceptMaps:
        scores = torch.full((len(concepts), 4, 4), self.wrong.pop(0))
        return ConceptMaps(tuple(concepts), scores, image, None, self.model_id)


def test_scores_that_are_no_numbers_are_no_result(folder: Path) -> None:
    spec = RunSpec("folder", data=str(folder))
    scorer = Scorer(spec, method=Unsteady(math.nan, 0.5, -math.inf))
    report = Report(*run(spec, scorer=scorer))
    assert [row["id"] for row in report.good] == ["house-1"]
    assert [row["id"] for row in report.bad] == ["house-0", "house-2"]
    for row in report.bad:
        assert "NaN or infinity in 16 of 16 scores" in row["error"]
        assert "counts" not in row


@UNTRAINED
def test_a_run_without_a_usable_image_is_an_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for mask in (folder / "masks").iterdir():
        Image.new("L", (64, 64)).save(mask)
    command = ["bench", "folder", "--data", str(folder)]
    for more in ([], ["--json"], ["--out", str(tmp_path / "out")]):
        assert here(monkeypatch, *command, *more) == 2
        said = capfd.readouterr()
        assert said.out == ""
        assert "none of 3 images could be scored; house-0: " in said.err
        assert "house-0.png is all black: it marks no target" in said.err
    ablation = ["bench", "ablate", "samples", "--dataset", "folder", "--data", str(folder), "-o", str(tmp_path / "a")]
    assert here(monkeypatch, *ablation) == 2


def test_where_a_run_goes_is_looked_at_before_a_model_is_opened(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(RunError, match=r"cannot write to .*taken/run: .*taken is no folder"):
        run(RunSpec("scenes", model="/nowhere"), tmp_path / "taken" / "run")
    with pytest.raises(RunError, match="/proc is no folder that can be written"):  # though root may write everywhere
        run(RunSpec("scenes", model="/nowhere"), Path("/proc/nowhere"))


def test_seeds_depend_on_the_image_alone() -> None:
    assert image_seed(0, "a") == image_seed(0, "a") != image_seed(0, "b")
    assert image_seed(1, "a") != image_seed(0, "a")


def test_reports_load_again_and_share_no_column_between_protocols(tmp_path: Path) -> None:
    scorer = Scorer(SPEC)
    report = Report(*run(SPEC, tmp_path / "a", limit=3, scorer=scorer, command="conceptlens bench scenes --limit 3"))
    other = RunSpec("scenes", protocol="full-vocab")
    second = Report(*run(other, tmp_path / "b", limit=3))
    assert Report.load(tmp_path / "a").summary()["metrics"] == report.summary()["metrics"]
    tables = leaderboard([report, second])
    assert [t.title for t in tables] == ["scenes, protocol fixed", "scenes, protocol full-vocab"]
    assert "conceptlens bench scenes --limit 3" in tables[0].markdown()
    assert tables[0].latex().count(r"\\") == 2
    assert tables[0].csv().splitlines()[-1].startswith("concept-attention,demo,")
    per_image = [np.mean(list(report.column("iou")))]
    assert report.metrics["iou_image"].value == pytest.approx(per_image[0], abs=1e-6)
    gap = difference(report, second, "iou")
    assert gap.value == pytest.approx(report.column("iou").mean() - second.column("iou").mean(), abs=1e-9)
    assert set(report.class_iou()) <= set(report.header["classes"])


def test_rows_of_two_protocols_in_one_file_are_no_report(tmp_path: Path) -> None:
    for name in ("fixed", "full-vocab"):
        with RowFile(tmp_path / name, {**SETTINGS, "protocol": {"name": name}}, {}) as file:
            file.append({"id": name, "counts": {}, "scores": {}})
    stranger = (tmp_path / "full-vocab" / ROWS).read_text()
    with (tmp_path / "fixed" / ROWS).open("a") as file:
        file.write(stranger)
    with pytest.raises(RunError, match=r"mixes rows of two recipes \(.*\): other settings, or another protocol"):
        Report.load(tmp_path / "fixed")
    assert len(Report.load(tmp_path / "full-vocab").rows) == 1


def test_a_saved_report_gives_every_figure_of_the_run_to_the_last_bit(tmp_path: Path) -> None:
    report = Report(*run(SPEC, tmp_path / "run", limit=3, command="conceptlens bench scenes --limit 3"))
    failed = {"id": "0", "error": "broken"}
    Report(report.header, [failed, *report.rows]).save(tmp_path / "saved")
    stored = Report.load(tmp_path / "saved")
    assert [path.name for path in (tmp_path / "saved").iterdir()] == [REPORT]
    assert stored.summary() == {**json.loads(json.dumps(report.summary(), default=list)), "bad_images": 1}
    assert stored.metrics == report.metrics
    assert stored.bad == [failed]
    assert [{**row, "recipe": report.header["recipe"]} for row in stored.good] == report.good
    assert difference(stored, report, "iou").value == 0
    lines = (tmp_path / "saved" / REPORT).read_text().splitlines()
    assert sum(line.lstrip().startswith('"iou":') for line in lines) == 2, "the protocol's word, and one column"


def test_columns_are_rows_again() -> None:
    cases: list[list[Any]] = [
        [],
        [{}, {}],
        [{"id": "a", "counts": {"tp": 1, "fp": [2, 3]}}, {"counts": {"fp": [], "tp": 0}, "id": "b"}],
        [{"id": "a", "classes": {"1": [1]}}, {"id": "b", "classes": {"2": [1]}}, {"id": "c", "classes": {}}],
        [{"id": "a", "score": 0.1 + 0.2}, {"id": "b", "score": None}],
        [{"id": "a", "more": 1}, {"id": "b"}],
    ]
    for rows in cases:
        header, again = from_text(to_text({"recipe": "beef"}, rows))
        assert (header, again) == ({"recipe": "beef"}, rows)


def test_a_report_is_no_run_to_go_on_with(tmp_path: Path) -> None:
    Report({"settings": SETTINGS}, []).save(tmp_path)
    before = (tmp_path / REPORT).read_bytes()
    with pytest.raises(RunError, match="holds the report of a run, with no rows to go on from. Choose another --out"):
        run(RunSpec("scenes", model="/nowhere"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [REPORT]
    for text in (
        before[:-9],
        b"[]",
        b'{"columns": 3, "failed": []}',
        b'{"columns": {"a": [1], "b": []}, "failed": []}',
    ):
        (tmp_path / REPORT).write_bytes(text)
        with pytest.raises(RunError, match=r"report.json is damaged \(.*\). Get it again, or remove it."):
            Report.load(tmp_path)


def test_a_run_of_a_version_with_other_settings_starts_anew(tmp_path: Path) -> None:
    scorer = Scorer(SPEC)
    header, _ = run(SPEC, tmp_path, limit=1, scorer=scorer)
    assert {"branch", "padding", "softmax_at", "single_stream"} <= set(header["settings"]["method_settings"])
    del header["settings"]["method_settings"]["branch"]
    (tmp_path / RUN).write_text(json.dumps(header))
    with pytest.raises(RunError, match=r"other settings: method_settings.branch was None, now 'prompt'. Choose anoth"):
        run(SPEC, tmp_path, limit=2, scorer=scorer)


def test_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        Report.load(tmp_path)
    (tmp_path / RUN).write_text("{")
    with pytest.raises(RunError, match="is damaged"):
        RowFile(tmp_path, SETTINGS, {})
