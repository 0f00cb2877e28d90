"""Rows of the image replaced while it is painted: what is replaced, where, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import conceptlens as cl
from command_line import here
from conceptlens.bench.faithful.cases import Case, CaseError, read_cases, storybook_cases, without
from conceptlens.bench.faithful.regions import area_under, elsewhere, highest, inside
from conceptlens.bench.faithful.repainting import paint, repaint, spread
from conceptlens.bench.faithful.report import figures, table
from conceptlens.bench.faithful.runs import BOUNDS, FaithfulSpec, Judge, run
from conceptlens.session import Session
from conceptlens.values.errors import ModelError, RecipeError

CALL = {"num_inference_steps": 4, "true_cfg_scale": 1.0}


@pytest.fixture(scope="module")
def session() -> Session:
    return cl.load()


@pytest.mark.parametrize(
    ("prompt", "word", "rest"),
    [
        ("a red house and a blue boat", "house", "a blue boat"),
        ("a red house and a blue boat", "boat", "a red house"),
        ("a small red house", "house", ""),
        ("a photo of the cat, a dog and a bird", "dog", "a photo of the cat and a bird"),
        ("a photo of a cat", "cat", "a photo"),
        ("House, tree", "house", "tree"),
        ("a sand castle on the sand", "sand castle", "on the sand"),
    ],
)
def test_a_prompt_without_a_word_is_without_its_phrase(prompt: str, word: str, rest: str) -> None:
    assert without(prompt, word) == rest


def test_cases_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("# words\na red house and a tree | house\n\na cat on a mat | cat | a mat\n")
    assert read_cases(file) == [
        Case("a red house and a tree", "house", "a tree"),
        Case("a cat on a mat", "cat", "a mat"),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a red house | tree", "'tree' is not in the prompt 'a red house'"),
        ("a red house", 'line 1 of .*prompts.txt must be "prompt | word"'),
        ("a house and a tree | house | a house", "'a house' still names 'house'"),
        ("# nothing\n", "holds no prompt. Write lines such as"),
    ],
)
def test_cases_that_cannot_be_painted(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(text)
    with pytest.raises(CaseError, match=says):
        read_cases(file)


def test_cases_of_scenes_take_turns() -> None:
    cases = storybook_cases(6)
    assert [case.without == "" for case in cases] == [True, False] * 3
    assert all(case.word in case.prompt.split() and case.word not in case.without.split() for case in cases)


def test_regions() -> None:
    scores = np.array([[0.0, 3.0], [1.0, 0.0]])
    assert inside(scores).tolist() == [[False, True], [False, False]]
    assert highest(scores, 0.5).tolist() == [[False, True], [True, False]]
    assert highest(scores, 0.75).tolist() == [[True, True], [True, False]]
    other = elsewhere(inside(scores), np.random.default_rng(0))
    assert other.sum() == 1
    assert not other[0, 1]
    assert elsewhere(~inside(scores), np.random.default_rng(0)).tolist() == inside(scores).tolist()
    assert area_under((0.0, 0.5, 1.0), (1.0, 0.0, 0.0)) == 0.25


@pytest.mark.filterwarnings("ignore:.*true_cfg_scale")
def test_only_the_rows_of_the_region_are_those_of_the_other_painting(session: Session) -> None:
    first, other = (paint(session, prompt, 3, CALL) for prompt in ("a red house", "a blue boat"))
    plain = session.pipeline(
        "a red house", generator=torch.Generator().manual_seed(3), **{**session.generate_defaults, **CALL}
    ).images[0]
    assert np.array_equal(np.asarray(first.image), np.asarray(plain))
    assert len(first.latents) == 4
    regions = torch.zeros(3, 16, 16, dtype=torch.bool)
    regions[1, :, 8:] = True
    regions[2] = True
    nothing, half, all_ = repaint(session, first, other, regions, CALL, first_step=2)
    for repainted, painting in ((nothing, first), (all_, other)):
        # of 255: a batch of three is rounded otherwise than a picture alone
        np.testing.assert_allclose(np.asarray(repainted, int), np.asarray(painting.image, int), atol=3, rtol=0)
    for columns, near_other in ((slice(0, 24), False), (slice(40, 64), True)):  # the decoder sees over the border
        gaps = [np.abs(np.asarray(half, int) - np.asarray(one.image, int))[:, columns].mean() for one in (first, other)]
        assert (gaps[1] < gaps[0] / 2) if near_other else (gaps[0] < gaps[1] / 2), gaps


def test_latents_of_a_picture_and_of_a_film() -> None:
    regions = torch.zeros(1, 2, 2, dtype=torch.bool)
    regions[0, 0, 1] = True
    assert (
        spread(regions, torch.zeros(1, 3, 4, 4))[0, 0].tolist() == [[False, False, True, True]] * 2 + [[False] * 4] * 2
    )
    assert spread(regions, torch.zeros(1, 4, 16))[0, :, 0].tolist() == [False, True, False, False]
    with pytest.raises(ModelError, match=r"latents of shape \(1, 3, 2, 4, 4\) have no 2 x 2 rows"):
        spread(regions, torch.zeros(1, 3, 2, 4, 4))


def test_a_run_goes_on_where_it_stopped(session: Session, tmp_path: Path) -> None:
    judged: list[int] = []

    def chances(images: Sequence[Image.Image], _word: str) -> list[float]:
        judged.append(len(images))
        return [0.9, 0.1] if len(images) == 2 else [0.1, 0.9, 0.9, 0.4, 0.3, 0.2, 0.1][: len(images)]

    cases = [Case("a red house", "house", ""), Case("a blue boat and a tree", "boat", "a tree")]
    call = {"num_inference_steps": 1, "true_cfg_scale": 1.0}
    spec = FaithfulSpec(cases, methods=("while-painting",), call=call)
    header, rows = run(session, spec, Judge("test", chances), tmp_path)
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    (tmp_path / "rows.jsonl").write_text(lines[0] + "\n")
    judged.clear()
    _, again = run(session, spec, Judge("test", chances), tmp_path)
    assert judged == [2, *[7, 4] * 3]  # the second case alone
    assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in again]
    assert [list(row["methods"]) for row in rows] == [["while-painting", *BOUNDS]] * 2
    found = figures(rows)["while-painting"]
    assert (found["inside"].value, found["elsewhere"].value, found["margin"].value) == (1.0, 0.0, 1.0)
    shares = (0.0, 0.05, 0.1, 0.2, 0.4, 1.0)
    assert found["deletion"].value == pytest.approx(area_under(shares, (0.9, 0.4, 0.3, 0.2, 0.1, 0.1)))
    assert found["insertion"].value == pytest.approx(area_under(shares, (0.1, 0.1, 0.9, 0.9, 0.4, 0.9)))
    assert "2 pictures of demo; 0 more did not" in table(header, rows).markdown()


def test_the_command_judges_by_presence_and_leaves_out_what_shows_no_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts").write_text("a red house | house\n")
    asked = ["bench", "faithful", "--prompts", str(tmp_path / "prompts"), "--method", "while-painting"]
    asked += ["--steps", "1", "--set", "true_cfg_scale=1.0", "-o", str(tmp_path / "out")]
    assert here(monkeypatch, *asked) == 2
    assert "none of 1 pictures shows its word" in capfd.readouterr().err
    row = json.loads((tmp_path / "out" / "rows.jsonl").read_text())
    assert "shows no house" in row["left_out"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--method", "magic"], "no method 'magic'"),
        (["--first-step", "1"], "first_step is a share of the steps"),
        (["--prompts", "missing.txt"], "cannot read missing.txt"),
        (["--model", "zoo:neutral"], "has no calibration of presence"),
    ],
)
def test_what_is_refused(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("CONCEPTLENS_ZOO", str(Path(__file__).parents[2] / "zoo"))
    assert here(monkeypatch, "bench", "faithful", "-o", str(tmp_path / "out"), *arguments) == 2
    assert says in capfd.readouterr().err
    with pytest.raises(RecipeError, match="from 0 to below 1"):
        FaithfulSpec([], first_step=1.0)
