"""The judges themselves: small random models of the real classes, from folders as the hub has them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoModel, BlipForQuestionAnswering, CLIPModel

import conceptlens as cl
import tiny_judges
from conceptlens import cli
from conceptlens.bench.fidelity.blip_vqa import YesNo
from conceptlens.bench.fidelity.captions import Captioner
from conceptlens.bench.fidelity.clip import ClipEmbedder
from conceptlens.bench.fidelity.prompts import FidelityError
from conceptlens.bench.fidelity.runs import open_scorer, run
from conceptlens.bench.fidelity.sentences import SentenceModel
from conceptlens.bench.fidelity.vqa import LONGEST_ANSWER, open_vqa
from conceptlens.bench.rows import RunError

QUESTION = "is there a red house?"
KINDS = {
    "blip_vqa": "BlipVQA", "git": "GitVQA", "vilt": "ViltVQA", "blip2": "Blip2VQA", "llava": "ChatVQA",
}  # fmt: skip


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 48, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("judges")


def built(folders: Path, name: str) -> str:
    folder = folders / name
    return str(folder) if folder.exists() else getattr(tiny_judges, name)(folder)


@pytest.mark.parametrize("name", KINDS)
def test_a_backend_answers_what_its_model_says(folders: Path, name: str) -> None:
    judge = open_vqa(built(folders, name), "cpu")
    assert type(judge).__name__ == KINDS[name]
    asked = ["what color is the sun?", QUESTION]
    both = judge([picture(), picture()], asked, [["red", "blue"], ["yes", "no"]])
    alone = judge([picture()], asked[1:], [["yes", "no"]])
    assert both[1:] == alone, "an answer must not depend on the question beside it"
    words = {*tiny_judges.WORDS[6:], "#", "s", "[PAD]"}
    assert all(len(said.split()) <= LONGEST_ANSWER and set(said.split()) <= words for said in both)
    assert QUESTION.split("?")[0] not in both[1]


def test_choices_are_shown_to_the_models_that_choose(folders: Path) -> None:
    judge: Any = open_vqa(built(folders, "blip2"), "cpu")
    seen: list[str] = []
    inner = judge._processor

    def watching(**given: Any) -> Any:
        seen.append(given["text"])
        return inner(**given)

    watching.batch_decode = inner.batch_decode  # type: ignore[attr-defined]
    judge._processor = watching
    judge([picture()], ["is it red?"], [["yes", "no"]])
    assert seen == ["Answer the multiple-choice question. Question: is it red? Choices: yes, no Answer:"]


def test_yes_against_no_at_the_first_token(folders: Path) -> None:
    source = built(folders, "blip_vqa")
    ask = YesNo(source, "cpu", side=32)
    model = BlipForQuestionAnswering.from_pretrained(source).eval()
    given = ask._processor(images=picture(), text=QUESTION, return_tensors="pt")
    with torch.no_grad():
        seen = model.vision_model(given.pixel_values).last_hidden_state
        read = model.text_encoder(given.input_ids, attention_mask=given.attention_mask, encoder_hidden_states=seen)
        begin = torch.tensor([[tiny_judges.WORDS.index("[DEC]")]])
        logits = model.text_decoder(begin, encoder_hidden_states=read.last_hidden_state).logits[0, 0]
    share = logits.softmax(0)[[tiny_judges.WORDS.index("yes"), tiny_judges.WORDS.index("no")]]
    assert ask(picture(), QUESTION) == pytest.approx(float(share[0] / share.sum()), abs=1e-5)
    assert ask(picture(), QUESTION) != ask(picture(1), QUESTION)
    wide = YesNo(source, "cpu")
    assert (
        wide._processor(images=picture(), text="a", size=wide._size, return_tensors="pt").pixel_values.shape[-1] == 480
    )
    assert 0 < wide(picture(), QUESTION) < 1
    with pytest.raises(cl.ModelError, match="pictures of 100 pixels are no whole number of .* 16-pixel patches"):
        YesNo(source, "cpu", side=100)


def test_sentences_are_means_over_real_tokens(folders: Path) -> None:
    judge = SentenceModel(built(folders, "sentence_model"), "cpu")
    texts = ["a red house", "sea", "the sun is on the sea with two boat"]
    model = AutoModel.from_pretrained(built(folders, "sentence_model")).eval()
    tokenizer = tiny_judges.bert_tokenizer()
    with torch.no_grad():
        alone = [model(**tokenizer(t, return_tensors="pt")).last_hidden_state[0].mean(0) for t in texts]
    torch.testing.assert_close(judge.embed(texts), F.normalize(torch.stack(alone), dim=1), atol=1e-5, rtol=0)
    assert judge("red house", ["sea", "red house", "boat"]) == "red house"


def test_captions_have_no_prefix(folders: Path) -> None:
    caption = Captioner(built(folders, "blip_captioner"), "cpu")
    said = caption(picture())
    assert said
    assert not said.startswith("a picture of")
    assert len(said.split()) <= 30
    assert caption(picture()) == said


def test_clip_is_the_models_own(folders: Path) -> None:
    source = built(folders, "clip")
    embed, model = ClipEmbedder(source, "cpu"), CLIPModel.from_pretrained(source).eval()
    pixels = embed._processor(images=picture(), return_tensors="pt").pixel_values
    ids = embed._clip.tokenizer(["a red house"], return_tensors="pt").input_ids
    with torch.no_grad():
        logit = model(input_ids=ids, pixel_values=pixels).logits_per_image / model.logit_scale.exp()
    own = embed.image(picture()) @ embed.texts(["a red house"])[0]
    assert float(own) == pytest.approx(float(logit), abs=1e-5)


def test_what_cannot_be_opened(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(cl.ModelError, match="cannot load model 'nobody/nothing'"):
        open_vqa("nobody/nothing")
    with pytest.raises(cl.ModelError, match="is a blip model; a CLIP model is needed"):
        open_scorer("clip", built(folders, "blip_vqa"), second="none", device="cpu")
    with pytest.raises(FidelityError, match="no metric 'dino'. Known: tifa, clip, blip-vqa"):
        open_scorer("dino")


@pytest.fixture
def painted(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for prompt in range(2):
        for seed in range(2):
            picture(10 * prompt + seed).save(folder / f"{prompt}-{seed}.png")
    (folder / "1-9.png").write_bytes(b"no picture")
    (tmp_path / "prompts.txt").write_text("a red house and a blue boat\nthe sun\na tree\n")
    return tmp_path


def test_a_run_goes_on_and_notices_other_pictures(folders: Path, painted: Path) -> None:
    scorer = open_scorer("blip-vqa", built(folders, "blip_vqa"), device="cpu")
    calls: list[str] = []

    class Counting:
        name, settings = scorer.name, scorer.settings

        def __call__(self, asked: Any, image: Image.Image) -> dict[str, Any]:
            calls.append(asked.id)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return scorer(asked, image)

    where = (painted / "pictures", painted / "prompts.txt", painted / "out")
    with pytest.raises(KeyboardInterrupt):
        run(Counting(), *where)
    found = run(Counting(), *where)
    assert calls == ["0-0.png", "0-1.png", "1-0.png", "1-0.png", "1-1.png"]
    assert (found["pictures"], found["prompts"], found["prompts_without_picture"]) == (4, {"blip_vqa": 2}, 1)
    assert run(scorer, *where, limit=2)["prompts_without_picture"] == 1
    assert [bad["id"] for bad in found["bad"]] == ["1-9.png"]
    chances = [YesNo(built(folders, "blip_vqa"), "cpu")(picture(10 + seed), "the sun?") for seed in range(2)]
    rows = [json.loads(line) for line in (painted / "out" / "rows.jsonl").read_text().splitlines()]
    assert [r["scores"]["blip_vqa"] for r in rows if r["prompt_id"] == "1" and "error" not in r] == pytest.approx(
        chances
    )
    picture(77).save(painted / "pictures" / "0-0.png")
    with pytest.raises(RunError, match=r"0-0.png has changed since .*out was made"):
        run(scorer, *where)


@pytest.mark.parametrize("metric", ["tifa", "clip"])
def test_the_command(
    metric: str, folders: Path, painted: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (painted / "pictures" / "1-9.png").unlink()
    prompts = painted / "prompts.txt"
    given = ["--model", built(folders, "clip"), "--second", built(folders, "blip_captioner")]
    if metric == "tifa":
        given = ["--model", built(folders, "vilt"), "--second", built(folders, "sentence_model")]
        prompts = painted / "questions.json"
        asks: dict[str, Any] = {
            "question": QUESTION,
            "choices": ["yes", "no"],
            "answer": "yes",
            "element_type": "object",
        }
        prompts.write_text(json.dumps([{"id": "0", "caption": "a red house", **asks}]))
    command = ["conceptlens", "bench", "fidelity", str(painted / "pictures"), "--prompts", str(prompts)]
    command += ["--metric", metric, *given, "--device", "cpu", "-o", str(painted / "out")]
    monkeypatch.setattr("warnings.showwarning", lambda *_, **__: None)
    monkeypatch.setattr(sys, "argv", [*command, "--json"])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    told = json.loads(capfd.readouterr().out)
    assert set(told["metrics"]) == ({"tifa"} if metric == "tifa" else {"full", "minimum", "text"})
    assert set(told["versions"]) == {"conceptlens", "torch", "transformers"}
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    shown = " ".join(capfd.readouterr().out.split())
    assert f"Protocol: metric={metric}" in shown
    for value in next(iter(told["metrics"].values())):
        assert f"{value:.4f}" in shown
    # The leaderboard of masks leaves these rows alone.
    monkeypatch.setattr(sys, "argv", ["conceptlens", "bench", "report", str(painted)])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "error: no run in" in capfd.readouterr().err
