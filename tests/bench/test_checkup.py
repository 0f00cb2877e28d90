"""A checkup's parts: what is cut out and joined, what counts as a noun, what is concluded, and what is saved."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import conceptlens as cl
from command_line import here
from conceptlens.bench.checkup.collages import Cell, Collage, plan_collages
from conceptlens.bench.checkup.extents import BACKGROUND, extents_of, truth_of
from conceptlens.bench.checkup.looking import span_name, spans_of
from conceptlens.bench.checkup.plan import Plan
from conceptlens.bench.checkup.presence import fit_presence, there
from conceptlens.bench.checkup.run import Checkup
from conceptlens.bench.checkup.scores import image_score, score_spans
from conceptlens.bench.checkup.verdict import Findings, Setting
from conceptlens.bench.datasets.base import VOID
from conceptlens.families import adapter_for
from conceptlens.presence import presence
from conceptlens.readers.loading import Defaults, LoadedModel, defaults_file, model_defaults
from conceptlens.readers.text_streams import reader_of
from conceptlens.session import Session
from tiny_models import FAMILIES

NOUNS = ("house", "tree", "sun", "boat", "car")
SIDE = 64


def picture(ground: int, box: tuple[int, int, int, int] | None, colour: tuple[int, int, int]) -> Image.Image:
    """A grey ground, and in it a box (left, top, right, bottom) of a colour."""
    image = Image.new("RGB", (SIDE, SIDE), (ground, ground, ground))
    if box is not None:
        image.paste(colour, box)
    return image


def painted(count: int = 5) -> dict[Cell, Image.Image]:
    """One seed: each noun a box of another colour at another place, the last one nothing of its own."""
    boxes = [(4, 4, 20, 20), (40, 4, 60, 20), (8, 40, 24, 60), (40, 40, 60, 60)]
    colours = [(250, 20, 20), (20, 250, 20), (20, 20, 250), (250, 250, 20)]
    cells = [Cell(noun, 0) for noun in NOUNS[:count]]
    shown = [picture(90, box, colour) for box, colour in zip(boxes, colours, strict=True)]
    return dict(zip(cells, [*shown, picture(90, None, (0, 0, 0))], strict=True))


def test_a_noun_is_where_its_picture_differs_from_the_others() -> None:
    found = extents_of(painted())
    box = np.zeros((SIDE, SIDE), bool)
    box[4:20, 4:20] = True
    own = found[Cell("house", 0)]
    assert (own & box).sum() == box.sum()
    assert own.sum() <= 20 * 20  # the box, and at most two pixels around it
    assert not found[Cell("car", 0)].any()


def test_a_ground_that_two_others_share_is_nobodys_and_a_picture_of_its_own_is_all_the_nouns() -> None:
    pictures = painted()
    for cell in (Cell("house", 0), Cell("tree", 0), Cell("sun", 0)):
        ground = np.asarray(pictures[cell]).copy()
        ground[(ground == 90).all(axis=-1)] = 200
        pictures[cell] = Image.fromarray(ground)
    shared = extents_of(pictures)[Cell("house", 0)]
    assert not shared[44:56, 44:56].any()  # tree and sun have this ground there too
    assert shared[6:18, 6:18].all()
    noise = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
    apart = {Cell(noun, 0): Image.fromarray(pixels) for noun, pixels in zip(NOUNS, noise, strict=True)}
    assert all(extent.all() for extent in extents_of(apart).values())


def test_a_collage_shows_each_noun_at_full_scale_and_knows_its_patches() -> None:
    pictures = painted()
    extents = extents_of(pictures)
    collage = Collage(0, tuple(Cell(noun, 0) for noun in NOUNS[:4]), "car")
    canvas = collage.paste(pictures, extents)
    assert canvas.size == (SIDE, SIDE)
    colours, counts = np.unique(np.asarray(canvas).reshape(-1, 3), axis=0, return_counts=True)
    areas = {tuple(colour.tolist()): int(count) for colour, count in zip(colours, counts, strict=True)}
    assert areas[250, 20, 20] == 16 * 16  # nothing is shrunk or cut off
    truth = truth_of(collage, extents, 16, 16)
    for place, (top, left) in enumerate(((0, 0), (0, 8), (8, 0), (8, 8))):
        mine = truth[top : top + 8, left : left + 8]
        assert set(np.unique(mine)) <= {place, BACKGROUND, VOID}
        assert (mine == place).sum() >= 14
        assert (mine == BACKGROUND).sum() > 10
    pair = Collage(1, collage.cells[:2], "car")
    assert pair.paste(pictures, extents).size == (SIDE, SIDE)
    assert set(np.unique(truth_of(pair, extents, 16, 16))) == {0, 1, BACKGROUND, VOID}


def test_whole_pictures_fill_their_parts() -> None:
    extents = {Cell(noun, 0): np.ones((SIDE, SIDE), bool) for noun in NOUNS}
    truth = truth_of(Collage(0, tuple(Cell(n, 0) for n in NOUNS[:4]), "car"), extents, 4, 4)
    assert truth.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert VOID in truth_of(Collage(0, tuple(Cell(n, 0) for n in NOUNS[:2]), "car"), extents, 5, 5)[:, 2]


def test_more_collages_go_on_from_fewer_and_every_noun_has_its_turn() -> None:
    few, many = (plan_collages(NOUNS, 3, limit, seed=4) for limit in (10, 60))
    assert many[:10] == few
    assert plan_collages(NOUNS, 3, 10, seed=5) != few
    for collage in many:
        assert len(set(collage.nouns)) == len(collage.cells) == (4 if collage.number % 2 else 2)
        assert collage.absent not in collage.nouns
    turns = [sum(noun in collage.nouns for collage in many) for noun in NOUNS]
    assert min(turns) > 0.8 * max(turns)


def test_scores_are_intersection_over_union_of_what_words_win() -> None:
    truth = np.array([[0, 0, 1, 1], [0, BACKGROUND, 1, VOID]])
    good = torch.zeros(5, 2, 4)  # two nouns, the absent one, two grounds
    for word, cells in ((0, [(0, 0), (0, 1), (1, 0)]), (1, [(0, 2), (0, 3), (1, 2)]), (4, [(1, 1)]), (2, [(1, 3)])):
        for row, col in cells:
            good[word, row, col] = 1
    swapped = good[[1, 0, 2, 3, 4]]
    absent = good[[2, 1, 0, 3, 4]]
    found = score_spans(torch.stack([good, swapped, absent]), truth, 2, {"0": (0,), "1": (1,), "2": (2,)})
    assert found["0"] == {"iou": [1.0, 1.0], "swapped": [0.0, 0.0], "background": 1.0}
    assert found["1"] == {"iou": [0.0, 0.0], "swapped": [1.0, 1.0], "background": 1.0}
    assert found["2"]["iou"] == [0.0, 1.0]
    assert image_score(found["0"]) == 1
    assert image_score(found["2"]) == pytest.approx(2 / 3)
    alone = score_spans(good[None], np.where(truth == 1, VOID, truth), 2, {"0": (0,)})["0"]
    assert alone["iou"] == [1.0, None]
    assert np.isnan(image_score({"iou": [None, None], "background": 1.0}))


def test_sets_of_layers() -> None:
    assert list(spans_of(3)) == ["0", "1", "2", "0-1", "0-2", "1-2"]
    assert spans_of(4, (0, 2))["0,2"] == (0, 2)
    flux = spans_of(19)
    assert len(flux) == 19 + 8 * 9 // 2
    assert flux["0-18"] == tuple(range(19))
    assert span_name((5, 6, 7)) == "5-7"


def test_a_noun_is_surely_absent_only_where_its_seed_would_have_shown_it() -> None:
    shows, shows_nothing = np.ones((4, 4), bool), np.zeros((4, 4), bool)
    extents = {Cell(noun, number): shows for noun in NOUNS for number in (0, 1)}
    extents[Cell("sun", 1)] = shows_nothing
    pair = Collage(0, (Cell("house", 0), Cell("tree", 1)), "car")
    assert there(pair, NOUNS, extents) == [True, True, None, False, False]
    assert there(Collage(0, (Cell("house", 0), Cell("tree", 0)), "car"), NOUNS, extents)[2] is False
    assert there(Collage(0, (Cell("sun", 1), Cell("tree", 0)), "car"), NOUNS, extents)[2] is None


def rows_of(truth: np.ndarray, noise: float = 0.5) -> list[dict[str, Any]]:
    """Readings in which layer 1 knows who is there and layer 0 does not."""
    random = np.random.default_rng(0)
    return [
        {
            "noise": noise,
            "there": [bool(seen) for seen in row],
            "standings": {
                "0": random.normal(size=len(row)).tolist(),
                "1": (2 * row + random.normal(size=len(row))).tolist(),
            },
        }
        for row in truth
    ]


def test_presence_is_fitted_in_the_layers_that_know() -> None:
    truth = (np.random.default_rng(1).random((24, 5)) < 0.3).astype(float)
    fit = fit_presence(rows_of(truth), NOUNS, {"0": (0,), "1": (1,)})
    assert fit is not None
    assert (fit.span, fit.layers, fit.noise) == ("1", (1,), 0.5)
    assert fit.every_brier < fit.brier < fit.guessing
    assert not fit.curves  # all nouns behave alike, so that one curve of all has learnt the most
    assert fit.useful
    assert fit.every is not None
    assert fit.every.chance(3.0) > 0.7 > 0.3 > fit.every.chance(0.0)
    turned = rows_of(truth)
    for row in turned:
        row["standings"]["1"][0] *= -1  # of the first noun alone a low score says that it is there
    apart = fit_presence(turned, NOUNS, {"1": (1,)})
    assert apart is not None
    assert set(apart.curves) == set(NOUNS)
    assert apart.curves["house"].slope < 0 < apart.curves["tree"].slope
    useless = fit_presence(rows_of(truth), NOUNS, {"0": (0,)})
    assert useless is not None
    assert not useless.useful
    assert useless.every is None
    assert fit_presence(rows_of(np.zeros((20, 5))), NOUNS, {"1": (1,)}) is None


def findings(margin: float, count: int = 24) -> Findings:
    """Two noise levels and two layers; layer 1 at noise 0.3 is right by `margin`, all others by chance."""
    random, rows = np.random.default_rng(2), []
    plan = Plan(NOUNS, "a {}", limit=count, noises=(0.3, 0.6))
    for number in range(count):
        nouns = [str(noun) for noun in random.permutation(NOUNS)[:2]]
        for noise in plan.noises:
            spans = {}
            for span in ("0", "1"):
                gain = margin if (noise, span) == (0.3, "1") else 0.0
                own, swapped = random.uniform(0.1, 0.3, (2, 2))
                spans[span] = {"iou": (own + gain).tolist(), "swapped": swapped.tolist(), "background": None}
            shared = {"collage": number, "noise": noise, "nouns": nouns, "scores": {"output": spans}}
            rows.append({**shared, **rows_of(np.array([[noun in nouns for noun in NOUNS]], float), noise)[0]})
    return Findings("tiny", plan, rows, {"0": (0,), "1": (1,)}, Setting(0.6, "output", "0"))


def test_the_best_recipe_is_proposed_beside_the_usual_one() -> None:
    found = findings(0.4)
    assert found.best == Setting(0.3, "output", "1")
    assert found.trusted
    assert found.recipe() == {"layers": [1], "noise": 0.3}
    assert found.margin.value == pytest.approx(0.4, abs=0.05)
    assert found.difference(found.best, found.usual).low > 0.3
    assert found.summary()["mean_iou"]["proposed"][0] == pytest.approx(0.6, abs=0.05)


def test_scores_by_chance_are_not_trusted_however_many_settings_there_are() -> None:
    found = findings(0.0)
    assert not found.trusted
    assert "no word finds" in str(found.why_not) or "hardly find" in str(found.why_not)
    assert found.presence is None
    assert list(found.summary()) == ["model", "collages", "trusted", "why_not"]


def test_what_was_found_is_saved_where_load_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo: Session
) -> None:
    monkeypatch.setenv("CONCEPTLENS_HOME", str(tmp_path / "home"))
    assert defaults_file("owner/name") == tmp_path / "home" / "owner%2Fname" / "conceptlens.json"
    assert defaults_file(tmp_path) == tmp_path / "conceptlens.json"
    found = findings(0.4)
    (tmp_path / "conceptlens.json").write_text('{"generate": {"width": 8}, "recipe": {"softmax": true, "noise": 0.9}}')
    found.save(defaults_file(tmp_path))
    known = model_defaults(tmp_path, tmp_path)
    assert known.recipe == {"softmax": True, "noise": 0.3, "layers": [1]}
    assert known.generate == {"width": 8}
    found.save(defaults_file("owner/name"))
    assert model_defaults("owner/name", None).recipe == found.recipe()
    before = demo.recipe()
    found.save(defaults_file(None))
    again = cl.load(device="cpu")
    assert (again.recipe().noise, again.recipe().layers) == (0.3, (1,)) != (before.noise, before.layers)
    assert again.vocabulary == demo.vocabulary  # what the model's own folder says of other things stays


def test_one_curve_serves_words_without_their_own(demo: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    record = demo.read(Image.new("RGB", (64, 64), "grey"))
    stored = {"layers": [5], "noise": record.recipe.noise, "curves": {"sun": [0.0, 0.0]}, "every": [0.0, 2.0]}
    monkeypatch.setattr(type(demo), "calibration", property(lambda self: stored))
    sun, house = presence(demo, record, ["sun", "house"])
    assert sun.chance == pytest.approx(0.5)
    assert house.chance == pytest.approx(1 / (1 + np.exp(-2)))


@pytest.mark.slow
def test_an_interrupted_run_goes_on_without_losing_or_doubling_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkup, "trouble", lambda self: None)  # a random model's pictures, read all the same

    def run(folder: str, stop: int | None = None) -> list[dict[str, Any]]:
        def track(rows: Iterable[dict[str, Any]], total: int) -> Iterator[dict[str, Any]]:
            for number, row in enumerate(rows):
                if number == stop:
                    raise KeyboardInterrupt
                yield row

        with Checkup(session, plan, tmp_path / folder) as checkup:
            checkup.paint()
            checkup.read(track)
        lines = [json.loads(line) for line in (tmp_path / folder / "rows.jsonl").read_text().splitlines()]
        return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]

    pipeline = FAMILIES["flux"].pipeline()
    size = Defaults(generate={"height": 64, "width": 64, "max_sequence_length": 32})
    session = Session(reader_of(LoadedModel(pipeline, adapter_for(pipeline.transformer), "tiny", size)))
    plan = Plan.of(session, NOUNS, "a {}", (0.6,), pictures=2, limit=8, call={"num_inference_steps": 1})
    with pytest.raises(KeyboardInterrupt):
        run("stopped", stop=5)
    whole = run("whole")
    assert len(whole) == 8 * len(plan.noises)
    assert run("stopped") == whole


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--nouns", "sun,moon"), "a checkup needs 5 nouns"),
        (("--nouns", "sun,moon,tree,boat,giraffe"), "never trained on giraffe"),
        (("--nouns", "sun,moon,tree,boat,sun"), "given twice"),
        (("--template", "a photo"), "has no {} for the noun"),
        (("--noise", "0.2,much"), "--noise takes levels from 0 to 1"),
        (("--noise", "1.2"), "noise levels are from 0"),
        (("--limit", "2"), "limit must be at least 8"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert here(monkeypatch, "checkup", *arguments, "--out", str(tmp_path / "run"), "--device", "cpu") == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert says in line
    assert not (tmp_path / "run").exists()


def test_saving_into_nowhere_is_said_before_anything_is_painted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CONCEPTLENS_HOME", str(tmp_path / "file"))
    assert here(monkeypatch, "checkup", "--save", "--out", str(tmp_path / "run")) == 2
    assert "is a file" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_ends_cleanly_where_the_pictures_show_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONCEPTLENS_HOME", str(tmp_path / "home"))
    few = ("--nouns", "sun,moon,tree,boat,car", "--pictures", "2", "--limit", "8", "--noise", "0.25")
    fast = ("--set", "num_inference_steps=1", "--device", "cpu", "--out", str(tmp_path / "run"))
    assert here(monkeypatch, "checkup", *few, *fast, "--estimate") == 0
    assert "9 pictures at" in capfd.readouterr().out
    assert here(monkeypatch, "checkup", *few, *fast, "--save") == 0
    said = capfd.readouterr().out
    assert "demo: nothing can be said of its maps." in said
    assert said.endswith("nothing was saved\n")
    assert not (tmp_path / "home").exists()
    assert json.loads((tmp_path / "run" / "checkup.json").read_text())["trusted"] is False
    assert here(monkeypatch, "checkup", *few, *fast, "--seed", "1") == 2
    assert "holds a run with other settings: seed was 0, now 1" in capfd.readouterr().err


def test_a_noun_that_no_tokenizer_knows_is_refused(tmp_path: Path) -> None:
    pipeline = FAMILIES["flux"].pipeline()
    session = Session(reader_of(LoadedModel(pipeline, adapter_for(pipeline.transformer), "tiny", Defaults())))
    with pytest.raises(cl.ConceptError, match="no token that the .* tokenizer knows"):
        Plan.of(session, (*NOUNS[:4], "\u65e5\u672c"))
