"""The arithmetic of the scorers, with judges that answer as they are told."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from conceptlens.bench.fidelity.blip_vqa import BlipVQABinding
from conceptlens.bench.fidelity.clip import ClipSimilarity, halves, sentences
from conceptlens.bench.fidelity.phrases import noun_phrases
from conceptlens.bench.fidelity.prompts import Asked, FidelityError, pictures_of, read_prompts
from conceptlens.bench.fidelity.runs import by_prompt, run, summary
from conceptlens.bench.fidelity.tifa import Tifa, tifa_figures
from conceptlens.bench.rows import RunError

PICTURE = Image.new("RGB", (32, 32))


def question(answer: str, kind: str = "object", choices: Sequence[str] = ("yes", "no"), asks: str = "") -> dict:
    return {"question": asks or f"is it {answer}?", "choices": list(choices), "answer": answer, "element_type": kind}


def asked(prompt: str, *questions: dict) -> Asked:
    return Asked(f"{prompt}.png", Path(f"{prompt}.png"), prompt, prompt, questions)


class Told:
    """Answers in the given order."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    def __call__(self, images: Sequence[Any], questions: Sequence[str], choices: Sequence[Sequence[str]]) -> list[str]:
        assert len(images) == len(questions) == len(choices)
        return [self.answers.pop(0) for _ in questions]


def never(sentence: str, choices: Sequence[str]) -> str:
    raise AssertionError(f"{sentence!r} is one of {choices}")


def test_tifa_averages_captions_not_questions() -> None:
    first = asked("one", question("yes", "color"), question("yes", "color"))
    second = asked("two", *(question("yes", "color" if n < 3 else "object") for n in range(8)))
    judge = Tifa(Told("yes", "yes", *["yes"] * 5, *["no"] * 3), never, {})
    rows = [{"prompt_id": one.prompt_id, **judge(one, PICTURE)} for one in (first, second)]
    assert [row["scores"]["tifa"] for row in rows] == [1.0, 0.625]
    figures = tifa_figures(rows)
    assert figures["tifa_average"] == 0.8125  # all ten questions alike would give 0.7
    assert figures["tifa_stdev"] == pytest.approx(0.265165, abs=1e-6)
    assert figures["accuracy_by_type"] == {"color": 1.0, "object": 0.4}
    assert figures["questions_by_type"] == {"color": 5, "object": 5}
    assert tifa_figures(rows[:1])["tifa_stdev"] is None


def test_tifa_takes_the_nearest_choice_for_an_answer_that_is_none() -> None:
    seen = []

    def nearest(sentence: str, choices: Sequence[str]) -> str:
        seen.append((sentence, tuple(choices)))
        return choices[0]

    one = asked(
        "one", question("red", "color", ("red", "blue")), question("no"), question("blue", "color", ("red", "blue"))
    )
    made = Tifa(Told("crimson", "no", "scarlet"), nearest, {})(one, PICTURE)
    assert seen == [("crimson", ("red", "blue")), ("scarlet", ("red", "blue"))]
    assert [a["right"] for a in made["answers"]] == [True, True, False]
    assert made["answers"][0]["said"] == "crimson"
    assert made["answers"][0]["chosen"] == "red"


@pytest.mark.parametrize(
    ("questions", "says"),
    [
        ([], "the prompt 'one' has no questions"),
        ([{"question": "is it?", "answer": "yes"}], "the question 'is it\\?' lacks 'choices'"),
        ([question("maybe")], r"the answer 'maybe' to .* is none of its choices \['yes', 'no'\]"),
    ],
)
def test_tifa_refuses_in_one_line(questions: list[dict], says: str) -> None:
    with pytest.raises(FidelityError, match=says):
        Tifa(Told("yes"), never, {})(asked("one", *questions), PICTURE)


class Axes:
    """A text lies along the axes of the words it holds; the picture is a red cat with a little dog."""

    words = ("red", "cat", "dog")

    def image(self, image: Image.Image) -> Tensor:
        return F.normalize(torch.tensor([0.6, 0.7, 0.2]), dim=0)

    def texts(self, texts: Sequence[str]) -> Tensor:
        held = torch.tensor([[float(w in text.strip(".").split()) for w in self.words] for text in texts])
        return F.normalize(held + 1e-9, dim=-1)


def test_clip_similarities() -> None:
    judge = ClipSimilarity(Axes(), lambda image: "something red", {})
    made = judge(asked("a red cat and a dog"), PICTURE)
    length = math.sqrt(0.6**2 + 0.7**2 + 0.2**2)
    assert made["caption"] == "something red"
    assert made["scores"]["full"] == pytest.approx(1.5 / math.sqrt(3) / length, abs=1e-5)
    assert made["scores"]["minimum"] == pytest.approx(0.2 / length, abs=1e-5)
    assert made["scores"]["text"] == pytest.approx(1 / math.sqrt(3), abs=1e-5)
    alone = ClipSimilarity(Axes(), None, {})(asked("a red cat"), PICTURE)["scores"]
    assert alone == {"full": pytest.approx(1.3 / math.sqrt(2) / length, abs=1e-5), "minimum": None}


def test_a_prompts_embedding_is_the_mean_over_eighty_sentences() -> None:
    texts = sentences("a red cat")
    assert len(texts) == 80
    assert "a bad photo of a red cat." in texts
    assert "a photo of a dirty a red cat." in texts
    assert not any("a a " in text or "the a " in text for text in texts)

    class Seen(Axes):
        def texts(self, texts: Sequence[str]) -> Tensor:
            # Every other sentence says "dog" besides: the mean of unit vectors, as a unit vector.
            return super().texts([text.strip(".") + " dog" * (n % 2) for n, text in enumerate(texts)])

    mean = F.normalize(torch.tensor([0.0, 1.0 + math.sqrt(0.5), math.sqrt(0.5)]), dim=0)
    score = ClipSimilarity(Seen(), None, {})(asked("a cat"), PICTURE)["scores"]["full"]
    assert score == pytest.approx(float(mean @ Axes().image(PICTURE)), abs=1e-5)


def test_halves() -> None:
    assert halves("a cat and a dog with a hat") == ["a cat", "a dog with a hat"]
    assert halves("a cat with a hat") == ["a cat", "a hat"]
    assert halves("a cat and a dog and a bird") == ["a cat", "a dog", "a bird"]
    assert halves("a sandwich") == ["a sandwich"]


def test_blip_vqa_is_a_product_over_noun_phrases() -> None:
    chances = {"a red house?": 0.5, "the blue boat?": 0.4}
    judge = BlipVQABinding(lambda image, text: chances[text], {})
    made = judge(asked("a red house and the blue boat on the left"), PICTURE)
    assert made["scores"]["blip_vqa"] == pytest.approx(0.2)
    assert made["phrases"] == {"a red house": 0.5, "the blue boat": 0.4}
    twice = judge(asked("a red house and a red house"), PICTURE)
    assert twice["scores"]["blip_vqa"] == 0.25
    with pytest.raises(FidelityError, match="has no noun phrase"):
        judge(asked("on the left"), PICTURE)


def test_noun_phrases() -> None:
    assert noun_phrases("a green bench and a red car") == ["a green bench", "a red car"]
    assert noun_phrases("Two dogs, one cat; the old man's hat") == ["Two dogs", "one cat", "the old man's hat"]
    assert noun_phrases("") == []


def test_seeds_of_one_prompt_are_averaged_first() -> None:
    rows = [{"prompt_id": p, "scores": {"full": v, "minimum": m}} for p, v, m in
            (("a", 0.0, None), ("a", 1.0, None), ("a", 0.5, None), ("b", 0.9, 0.3))]  # fmt: skip
    assert by_prompt(rows, "full") == {"a": 0.5, "b": 0.9}
    found = summary([*rows, {"id": "c.png", "error": "no"}])
    assert found["metrics"]["full"][0] == 0.7  # the mean over pictures would be 0.6
    assert found["metrics"]["full"][1:] == [0.5, 0.9]
    assert found["metrics"]["minimum"] == [0.3, 0.3, 0.3]
    assert found["prompts"] == {"full": 2, "minimum": 1}
    assert (found["pictures"], found["bad"]) == (4, [{"id": "c.png", "error": "no"}])


def test_pictures_find_their_prompt(tmp_path: Path) -> None:
    (tmp_path / "a blue boat").mkdir()
    for name in ("0.png", "0-3.png", "0-17.png", "other.png", "a blue boat/5.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "lines.txt").write_text("a red house\n\na blue boat\n")
    rows = read_prompts(tmp_path / "lines.txt")
    assert [(row["id"], row["prompt"]) for row in rows] == [("0", "a red house"), ("2", "a blue boat")]
    found = pictures_of(tmp_path, rows)
    assert [(one.id, one.prompt_id) for one in found] == [
        ("0-17.png", "0"), ("0-3.png", "0"), ("0.png", "0"), ("a blue boat/5.png", "2"),
    ]  # fmt: skip
    (tmp_path / "named.json").write_text('{"other.png": "a sun"}')
    assert [(o.id, o.prompt) for o in pictures_of(tmp_path, read_prompts(tmp_path / "named.json"))] == [
        ("other.png", "a sun")
    ]


def test_questions_find_their_caption(tmp_path: Path) -> None:
    (tmp_path / "coco_7.png").touch()
    (tmp_path / "coco_8-1.png").touch()
    rows = [{"id": "coco_7", "caption": "a cat", **question("yes", asks=str(n))} for n in range(3)]
    rows.append({"id": "coco_8", "caption": "a dog", **question("no")})
    (tmp_path / "questions.json").write_text(json.dumps(rows))
    found = pictures_of(tmp_path, read_prompts(tmp_path / "questions.json"))
    assert [(one.prompt, len(one.questions)) for one in found] == [("a cat", 3), ("a dog", 1)]


@pytest.mark.parametrize(
    ("content", "says"),
    [("[]", "holds no prompt"), ("{", "cannot read prompts"), ('[{"id": 3}]', "entry 0 .* has no prompt")],
)
def test_prompts_that_cannot_be_read(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(FidelityError, match=says):
        read_prompts(tmp_path / "p.json")


def test_pictures_that_belong_to_nothing(tmp_path: Path) -> None:
    with pytest.raises(FidelityError, match="no picture in"):
        pictures_of(tmp_path, [{"id": "0", "prompt": "a sun"}])
    (tmp_path / "sunny.png").touch()
    with pytest.raises(FidelityError, match=r"none of the 1 pictures .*\(sunny.png, ...\) is named after a prompt"):
        pictures_of(tmp_path, [{"id": "0", "prompt": "a sun"}])


class Judge:
    """Gives every picture the same score, which may be no number."""

    name = "judge"

    def __init__(self, score: float) -> None:
        self.score = score
        self.settings: dict[str, Any] = {}

    def __call__(self, asked: Asked, image: Image.Image) -> dict[str, Any]:
        return {"scores": {"clip": self.score}}


def test_the_judge_is_opened_after_the_paths_were_looked_at(tmp_path: Path) -> None:
    def opened() -> Judge:
        times.append(1)
        return Judge(0.5)

    times: list[int] = []
    pictures, prompts, taken = tmp_path / "pictures", tmp_path / "p.txt", tmp_path / "taken"
    pictures.mkdir()
    taken.touch()
    for file, says in [(prompts, "cannot read prompts from .*p.txt"), (taken, "holds no prompt")]:
        with pytest.raises(FidelityError, match=says):
            run(opened, pictures, file, tmp_path / "out")
    prompts.write_text("a sun\n")
    with pytest.raises(FidelityError, match="no picture in"):
        run(opened, pictures, prompts, tmp_path / "out")
    PICTURE.save(pictures / "0.tif")
    with pytest.raises(RunError, match="cannot write to .*taken/out: .*taken is no folder"):
        run(opened, pictures, prompts, taken / "out")
    assert not times
    assert run(opened, pictures, prompts, tmp_path / "out")["metrics"]["clip"][0] == 0.5
    assert len(times) == 1


def test_a_judge_that_gives_no_number_gives_no_score(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "0.png")
    (tmp_path / "p.txt").write_text("a sun\n")
    found = run(Judge(math.nan), tmp_path, tmp_path / "p.txt", tmp_path / "out")
    assert found["metrics"] == {}
    assert found["bad"][0]["error"].startswith("clip is nan: the judge gave no number")
