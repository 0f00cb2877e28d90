"""The findings: pairs, encoders one by one, maps of an ordinary run, verdicts; planted numbers and tiny models."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import conceptlens as cl
from conceptlens import cli
from conceptlens.bench.findings import binding, maps, sink
from conceptlens.bench.findings.finding import Finding, FindingError
from conceptlens.bench.findings.outcomes import outcomes, questions_about, read_verdicts
from conceptlens.bench.findings.painting import Painting, paint
from conceptlens.bench.findings.pairs import auc, word_attention, word_pairs
from conceptlens.bench.findings.prompts import ANIMALS, COLOURS, OBJECTS, prompts_named
from conceptlens.bench.findings.reading import SHARES, Reading, read_prompt_with
from conceptlens.bench.metrics import roc_auc
from conceptlens.bench.rows import RowFile, RunError
from conceptlens.guidance import TSAM
from conceptlens.readers.text_side import load_text_side
from conceptlens.watch.prompt_text import clip_text_attention
from tiny_models import aura_flow_pipeline, flux_pipeline, sd3_pipeline
from tiny_sd import sd_pipeline, sdxl_pipeline

PROMPT = "a red house and a blue boat"
PROMPTS = [PROMPT, "a green tree and an orange sun", "a purple ball and a white bird"]
SMALL: dict[str, Any] = {"num_inference_steps": 3, "height": 32, "width": 32}


@pytest.fixture(scope="module")
def flux() -> Any:
    return flux_pipeline()


@pytest.fixture(scope="module")
def sd_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("sd")
    sd_pipeline().save_pretrained(folder)
    return str(folder)


def small(folder: str, **changes: Any) -> Painting:
    return Painting(**{"model": folder, "step": 1, "call": SMALL, "attention_size": (8, 8), "device": "cpu", **changes})


def test_prompt_lists() -> None:
    assert (len(ANIMALS), len(OBJECTS), len(COLOURS)) == (12, 12, 11)
    counts = {name: len(prompts_named(name)) for name in ("objects", "animals-objects", "animals", "scenes")}
    assert counts == {"objects": 66, "animals-objects": 144, "animals": 66, "scenes": 78}
    assert prompts_named("animals")[0] == "a cat and a dog"
    for prompt in prompts_named("objects"):
        (_, first, _), (_, second, _) = (half.split() for half in prompt.split(" and "))
        assert first != second
        assert prompt.startswith("an " if first[0] in "aeiou" else "a ")
    assert prompts_named("objects", 5) == prompts_named("objects")[:5]


def test_pairs_of_words(flux: Any) -> None:
    clip, t5 = (encoder.text for encoder in read_prompt_with(flux, PROMPT).encoders)
    assert [w for w, _ in clip.words] == [w for w, _ in t5.words] == PROMPT.split()
    for text in (clip, t5):
        pairs = word_pairs(text, causal=True)
        assert pairs["bound"] == [(2, 1), (6, 5)]
        assert pairs["unbound"] == [(6, 1)]
        assert pairs["objects"] == [(6, 2)]
        assert pairs["neighbours"] == [(1, 0), (3, 2), (4, 3), (5, 4)]
    assert word_pairs(t5, causal=False)["unbound"] == [(2, 5), (6, 1)]


def test_every_encoder_is_read_as_the_pipeline_runs_it(flux: Any) -> None:
    reading = read_prompt_with(flux, PROMPT)
    clip, t5 = reading.encoders
    assert [e.encoder for e in reading.encoders] == ["text_encoder CLIP", "text_encoder_2 T5"]
    assert (clip.causal, t5.causal) == (True, False)
    ids = flux.tokenizer(PROMPT, padding="max_length", max_length=77, return_tensors="pt").input_ids
    own = clip_text_attention(flux.text_encoder, ids)[0]
    torch.testing.assert_close(clip.text.attention[0], own[:, 1:8, 1:8])
    # What the pipeline hands on is what was read of T5, and the padding is part of its sequence.
    torch.testing.assert_close(t5.embeddings, reading.embeds[:7])
    assert reading.embeds.shape[0] > 7
    merged = word_attention(clip, clip.text.attention[0].mean(0))
    torch.testing.assert_close(merged, TSAM(gamma=1).target(clip.text), atol=1e-6, rtol=0)
    whole = word_attention(t5, t5.text.attention[0].mean(0))
    torch.testing.assert_close(whole.sum(1), torch.ones(7))
    assert whole.min() > 0


def test_layers_that_reach_the_model() -> None:
    pipeline = sdxl_pipeline()
    reading = read_prompt_with(pipeline, PROMPT)
    # Stable Diffusion XL puts the last but one hidden states of both encoders side by side.
    torch.testing.assert_close(torch.cat([e.embeddings for e in reading.encoders], 1), reading.embeds[1:8])
    assert [e.encoder for e in read_prompt_with(sd3_pipeline(), PROMPT).encoders] == [
        "text_encoder CLIP", "text_encoder_2 CLIP", "text_encoder_3 T5",
    ]  # fmt: skip


def test_a_pipeline_that_masks_padding_pays_nothing_to_it() -> None:
    (umt5,) = read_prompt_with(aura_flow_pipeline(), PROMPT).encoders
    assert umt5.encoder == "text_encoder T5"
    assert umt5.shares[:, SHARES.index("padding")].max() == 0
    assert umt5.shares[:, SHARES.index("end")].min() > 0
    torch.testing.assert_close(umt5.shares.sum(1), torch.ones(len(umt5.shares)))


def test_prompts_that_do_not_fit(flux: Any) -> None:
    with pytest.raises(cl.RecipeError, match="has 3 tokens with its marks; text_encoder reads 77"):
        read_prompt_with(flux, "house")
    with pytest.raises(cl.RecipeError, match="has 92 tokens with its marks; text_encoder reads 77"):
        read_prompt_with(sd_pipeline(), "house " * 90)


def test_the_sink_adds_up(flux: Any) -> None:
    found = sink.measure("tiny", flux, PROMPTS)
    assert found.numbers.keys() == {"text_encoder CLIP", "text_encoder_2 T5"}
    clip, t5 = (np.array(told["by_layer"]) for told in found.numbers.values())
    np.testing.assert_allclose(clip.sum(1), 1, atol=1e-4)
    np.testing.assert_allclose(t5.sum(1), 1, atol=1e-4)
    assert clip[:, SHARES.index("begin")].min() > 0
    assert (clip[:, 2:] == 0).all(), "a causal encoder sees neither end nor padding"
    assert t5[:, SHARES.index("begin")].max() == 0
    assert t5[:, SHARES.index("padding")].min() > 0, "FLUX.1 masks no padding"


def planted(
    monkeypatch: pytest.MonkeyPatch,
    attention: torch.Tensor,
    embeddings: torch.Tensor,
    flux: Any,
    causal: bool = True,
) -> None:
    real = read_prompt_with(flux, PROMPT).encoders[0]
    text = replace(real.text, attention=(attention[None],), causal=causal)
    from conceptlens.bench.findings.reading import EncoderReading

    made = EncoderReading("planted", text, embeddings, real.shares, None)
    monkeypatch.setattr(binding, "read_prompt_with", lambda pipeline, prompt: Reading((made,), embeddings))


def test_binding_of_planted_numbers(flux: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    attention = torch.full((7, 7), 0.05).tril()
    attention[2, 1] = attention[6, 5] = 0.8
    # Embeddings that bind the wrong way round: red is like boat, blue like house.
    embeddings = torch.eye(7)
    embeddings[1, 6] = embeddings[5, 2] = 1.0
    planted(monkeypatch, attention, embeddings, flux)
    by_attention = binding.attention("tiny", flux, [PROMPT, PROMPT]).numbers["planted"]
    assert by_attention["unbound"]["bound_against_it_auc"] == (1.0, 1.0, 1.0)
    assert by_attention["bound"]["mean"] == pytest.approx((0.8 / 0.9 + 0.8 / 1.1) / 2, abs=1e-5)
    assert by_attention["unbound"]["mean"] == pytest.approx(0.05 / 1.1, abs=1e-5)
    by_embedding = binding.embeddings("tiny", flux, [PROMPT, PROMPT]).numbers["planted"]
    assert by_embedding["unbound"]["bound_against_it_auc"][0] == 0.0
    assert by_embedding["unbound"]["mean"] == pytest.approx(2**-0.5, abs=1e-5)


def test_both_ways_is_the_mean_of_what_is_paid_and_what_is_got(flux: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    attention = torch.full((7, 7), 0.05)
    attention[2, 1] = attention[6, 5] = 0.8
    planted(monkeypatch, attention, torch.eye(7), flux, causal=False)
    found = binding.attention("tiny", flux, [PROMPT]).numbers
    assert found["planted"]["bound"]["mean"] == pytest.approx(0.8 / 1.1, abs=1e-5)
    assert found["planted both ways"]["bound"]["mean"] == pytest.approx(0.425 / 0.725, abs=1e-5)


def test_intervals_are_over_prompts() -> None:
    half = [{"bound": [1.0], "unbound": [0.0]}, {"bound": [0.0], "unbound": [1.0]}]
    assert auc(half, "bound", "unbound") == (0.5, 0.0, 1.0)
    assert np.isnan(auc([{"bound": [1.0], "unbound": []}], "bound", "unbound")[0])
    rng = np.random.default_rng(0)
    drawn = [{k: list(rng.integers(0, 6, n) / 6) for k, n in (("bound", 2), ("unbound", 3))} for _ in range(8)]
    above, below = (np.concatenate([one[kind] for one in drawn]) for kind in ("bound", "unbound"))
    truth = np.arange(len(above) + len(below)) < len(above)
    assert auc(drawn, "bound", "unbound")[0] == pytest.approx(roc_auc(np.concatenate([above, below]), truth))


def test_position_alone_is_told_for_t5(flux: Any) -> None:
    found = binding.attention("tiny", flux, PROMPTS[:2])
    names = ["text_encoder CLIP", *(f"text_encoder_2 T5{view}" for view in ("", " both ways", " position"))]
    assert list(found.numbers) == names
    # A position bias gives the same to the same places of every prompt.
    assert np.unique(np.round(found.numbers[names[-1]]["bound"]["values"], 4)).size == 2
    assert np.unique(np.round(found.numbers[names[1]]["bound"]["values"], 4)).size == 4


@pytest.mark.parametrize("prompts", [["a red house", "a blue boat"], ["a cat and a red chair", "a dog and a blue bow"]])
def test_prompts_with_one_colour(flux: Any, prompts: list[str], tmp_path: Path) -> None:
    found = binding.attention("tiny", flux, prompts)
    clip = found.numbers["text_encoder CLIP"]
    assert len(clip["bound"]["values"]) == 2
    assert "unbound" not in clip
    assert found.panels[0] == "text_encoder CLIP"
    found.save(tmp_path)
    assert (tmp_path / "attention.png").exists()


def test_an_encoder_says_how_it_looks(flux: Any) -> None:
    clip, t5 = read_prompt_with(flux, PROMPT).encoders
    assert [(e.causal, e.text.causal) for e in (clip, t5)] == [(True, True), (False, False)]
    assert clip.text.tokens[:3] == ("a", "red", "house")


def test_nothing_bound(flux: Any) -> None:
    with pytest.raises(FindingError, match="the prompt 'a cat and a dog' has no word that belongs to a noun"):
        binding.attention("tiny", flux, ["a cat and a dog"])


def test_text_encoders_are_loaded_alone(tmp_path: Path, flux: Any) -> None:
    flux.save_pretrained(tmp_path / "whole")
    for part in ("transformer", "vae"):
        next((tmp_path / "whole" / part).glob("*.safetensors")).unlink()
    loaded = load_text_side(tmp_path / "whole", device="cpu")
    assert loaded.transformer is None
    one, other = (read_prompt_with(pipeline, PROMPT) for pipeline in (flux, loaded))
    torch.testing.assert_close(one.embeds, other.embeds, atol=1e-5, rtol=0)
    with pytest.raises(cl.ModelError, match="cannot load the text encoders of model 'nobody/nothing'"):
        load_text_side("nobody/nothing")


def test_maps_are_those_of_an_ordinary_run(sd_folder: str) -> None:
    painting = small(sd_folder)
    pipeline = painting.open().pipeline
    generators = [torch.Generator().manual_seed(seed) for seed in (4, 9)]
    plain = pipeline(PROMPTS[:2], generator=generators, **SMALL).images
    found, images = paint(pipeline, painting, PROMPTS[:2], (4, 9), whole=True)
    assert all(a == b for a, b in zip(plain, images, strict=True))
    assert found.shape == (2, 77, 8, 8)
    torch.testing.assert_close(found.sum(1), torch.ones(2, 8, 8), atol=1e-5, rtol=0)
    early, nothing = paint(pipeline, painting, PROMPTS[1:2], (9,), whole=False)
    assert nothing == []
    torch.testing.assert_close(early[0], found[1], atol=1e-5, rtol=0)
    others = [paint(pipeline, small(sd_folder, step=step), PROMPTS[1:2], (9,), whole=False)[0] for step in (0, 2)]
    assert all(not torch.allclose(early, other) for other in others)
    # The prompt's half, not the empty prompt's: what is not wanted does not change the maps at the first step.
    first = small(sd_folder, step=0, call={**SMALL, "negative_prompt": ["a boat"]})
    torch.testing.assert_close(paint(pipeline, first, PROMPTS[1:2], (9,), whole=False)[0], others[0])
    assert all(type(p).__name__ != "CapturingProcessor" for p in pipeline.unet.attn_processors.values())


@pytest.mark.parametrize(
    ("changes", "call", "says"),
    [
        ({}, {"colour": "red"}, "StableDiffusionPipeline has no option 'colour'. Drop it."),
        ({}, {"height": 33}, "refused its settings: .*divisible by 8"),
        ({}, {"num_images_per_prompt": 2}, "refused its settings: .*list of generators"),
        ({"attention_size": (16, 4)}, {}, r"no cross-attention layer has 16x4 \(rows x columns\).*8x8"),
        ({"attention_size": (8, 0)}, {}, "attention_size must be two whole numbers"),
    ],
)
def test_paintings_that_cannot_be(sd_folder: str, changes: dict[str, Any], call: dict[str, Any], says: str) -> None:
    with pytest.raises(cl.ConceptlensError, match=says):
        maps.measure(small(sd_folder, **{"call": {**SMALL, **call}, **changes}), PROMPTS[:1])


def test_the_size_of_maps_is_that_of_the_painted_picture(sd_folder: str) -> None:
    for call in ({"height": 16}, {"height": 16, "width": 48}, {}):  # the pipeline takes both sides or none
        painting = small(sd_folder, attention_size=None, call={"num_inference_steps": 2, **call})
        found, _ = paint(painting.open().pipeline, painting, PROMPTS[:1], (0,), whole=False)
        assert found.shape[2:] == ((4, 12) if len(call) == 2 else (8, 8))


def test_maps_against_embeddings(sd_folder: str) -> None:
    found = maps.measure(small(sd_folder), PROMPTS)
    points = found.numbers["points"]
    assert len(points["map"]) == 3 * 21
    assert points["content"].sum() == 3 * 6
    value, low, high = found.numbers["all words"]["embedding"]
    assert value == pytest.approx(np.corrcoef(points["embedding"], points["map"])[0, 1], abs=1e-4)
    assert low <= value <= high
    with pytest.raises(cl.RecipeError, match="step must be from 0 to 2, the last of 3 steps; got 3"):
        maps.measure(small(sd_folder, step=3), PROMPTS)


def verdict_file(path: Path, rows: list[dict]) -> Path:
    path.write_text(json.dumps({"call": {"num_inference_steps": 3}, "rows": rows}))
    return path


def test_outcomes_of_planted_similarities(sd_folder: str, tmp_path: Path) -> None:
    painting = small(sd_folder)
    planted = [
        (0.9, None, False, False), (0.8, 0.5, False, False),
        (0.4, 0.9, True, True), (0.3, 0.8, True, True), (0.85, 0.6, True, False),
    ]  # fmt: skip
    rows = [
        {"prompt": PROMPT, "seed": seed, "objects": there, "right": right}
        for seed, (*_, there, right) in enumerate(planted)
    ]
    with RowFile(tmp_path / "out" / "similarities", painting.settings(), {}) as file:
        for row, (nouns, bound, *_) in zip(rows, planted, strict=True):
            file.append({"id": f"{PROMPT} #{row['seed']}", **row, "objects": nouns, "bound": bound})
    found = outcomes(painting, [], verdict_file(tmp_path / "v.json", rows), tmp_path / "out")
    assert isinstance(found, Finding)
    nouns, bound = found.numbers["two nouns"], found.numbers["noun and its modifier"]
    assert nouns["values"] == {"an object missing": [0.9, 0.8], "both there": [0.4, 0.3, 0.85]}
    assert nouns["auc"][0] == pytest.approx(5 / 6)
    assert bound["values"] == {"colours right": [0.9, 0.8], "a colour wrong": [0.6]}
    assert bound["auc"][0] == 1.0
    found.save(tmp_path / "saved", "conceptlens findings outcomes")
    told = json.loads((tmp_path / "saved" / "outcomes.json").read_text())
    assert told["settings"]["seeds"] == [0, 1, 2, 3, 4]
    assert set(told["versions"]) == {"conceptlens", "diffusers", "torch", "transformers"}
    with Image.open(tmp_path / "saved" / "outcomes.png") as figure:
        assert figure.size == (1260, 510)
        assert np.asarray(figure.convert("L")).std() > 10


def test_pictures_then_verdicts_then_the_figure(sd_folder: str, tmp_path: Path) -> None:
    painting, out = small(sd_folder), tmp_path / "out"
    said = outcomes(painting, PROMPTS, None, out, seed=5)
    assert isinstance(said, str)
    assert "conceptlens bench fidelity" in said
    assert sorted(p.name for p in (out / "pictures").iterdir()) == ["0-5.png", "1-6.png", "2-7.png"]
    questions = json.loads((out / "questions.json").read_text())
    assert [(q["id"], q["element_type"], q["answer"]) for q in questions[:4]] == [
        ("0", "object", "yes"), ("0", "color", "red"), ("0", "object", "yes"), ("0", "color", "blue"),
    ]  # fmt: skip
    answers = [{"type": q["element_type"], "right": q["element_type"] == "object"} for q in questions[:4]]
    with RowFile(out / "verdicts", {}, {}) as file:
        for name, prompt in zip(("0-5.png", "1-6.png"), PROMPTS, strict=False):
            file.append({"id": name, "prompt": prompt, "answers": answers if name == "0-5.png" else answers[::2]})
    rows, call = read_verdicts(out / "verdicts")
    assert call == {}
    assert [(r["seed"], r["objects"], r["right"]) for r in rows] == [(5, True, False), (6, True, True)]
    before = (out / "similarities" / "rows.jsonl").read_bytes()
    found = outcomes(painting, [], out / "verdicts", out)
    assert isinstance(found, Finding)
    assert (out / "similarities" / "rows.jsonl").read_bytes() == before, "nothing is painted again"
    # The same numbers come from a run that stops at the step.
    again = outcomes(painting, [], out / "verdicts", tmp_path / "other")
    assert isinstance(again, Finding)
    one, other = (f.numbers["two nouns"]["values"]["both there"] for f in (found, again))
    assert one == pytest.approx(other, abs=1e-5)
    with pytest.raises(FindingError, match="holds similarities without pictures"):
        outcomes(painting, PROMPTS, None, tmp_path / "other")
    with pytest.raises(RunError, match="a run with other settings: step was 1, now 2"):
        outcomes(small(sd_folder, step=2), PROMPTS, None, out)


def test_pictures_of_other_prompts_are_not_overwritten(sd_folder: str, tmp_path: Path) -> None:
    painting, out = small(sd_folder), tmp_path / "out"
    outcomes(painting, PROMPTS[:1], None, out)
    before = (out / "pictures" / "0-0.png").read_bytes()
    with pytest.raises(FindingError, match="out holds pictures of other prompts. Choose another --out"):
        outcomes(painting, PROMPTS[1:], None, out)
    assert (out / "pictures" / "0-0.png").read_bytes() == before
    outcomes(painting, PROMPTS[:2], None, out, seed=7)
    assert sorted(p.name for p in (out / "pictures").iterdir()) == ["0-0.png", "0-7.png", "1-8.png"]
    asked = [(q["id"], q["question"]) for q in json.loads((out / "questions.json").read_text())]
    assert len(asked) == len(set(asked)) == 8


def test_a_run_without_verdicts(tmp_path: Path) -> None:
    with RowFile(tmp_path / "run", {}, {}):
        pass
    with pytest.raises(FindingError, match="run holds no verdict. Judge some pictures first"):
        read_verdicts(tmp_path / "run")


def test_questions_name_colours_alone(flux: Any) -> None:
    text = read_prompt_with(flux, "a tall red house and a sun").encoders[0].text
    asked = questions_about(text, "7")
    assert [(q["question"], q["answer"]) for q in asked] == [
        ("is there a house in the picture?", "yes"), ("what color is the house?", "red"),
        ("is there a sun in the picture?", "yes"),
    ]  # fmt: skip
    assert {q["id"] for q in asked} == {"7"}
    assert all(q["answer"] in q["choices"] for q in asked)


NOT_A_TRUTH = '[{"prompt": "a", "seed": 0, "objects": true, "right": "false"}]'


@pytest.mark.parametrize("content", ['{"rows": [{"prompt": "a"}]}', "nonsense", "3", NOT_A_TRUTH])
def test_verdicts_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    (tmp_path / "v.json").write_text(content)
    with pytest.raises(FindingError, match=r"cannot read verdicts from .*v.json.* prompt, seed, objects, right"):
        read_verdicts(tmp_path / "v.json")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("warnings.showwarning", lambda *_, **__: None)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(
            sys, "argv", ["conceptlens", "findings", *arguments, "--device", "cpu", "-o", str(tmp_path)]
        )
        with pytest.raises(SystemExit) as stop:
            cli.main()
        shown = capfd.readouterr()
        return int(stop.value.code or 0), shown.out + shown.err

    code, shown = run("attention", "--model", "demo", "--limit", "3")
    assert code == 0
    told = json.loads((tmp_path / "attention.json").read_text())
    assert told["command"].startswith("conceptlens findings attention")
    assert f"{told['numbers']['text_encoder_2 T5']['bound']['mean']:.3f}" in shown
    assert (tmp_path / "attention.png").exists()
    code, shown = run("maps", "--limit", "2", "--step", "1", "--set", "num_inference_steps=2")
    assert code == 0
    assert "2 prompts · model demo-unet" in shown
    assert run("dreams") == (2, "error: no finding 'dreams'. Known: maps, embeddings, attention, sink, outcomes.\n")
    assert "takes ROWSxCOLS, for example 16x16; got '16'" in run("maps", "--attention-size", "16")[1]
    folder = str(Path(cl.__file__).parent / "assets" / "demo")
    assert "is a FluxPipeline; a U-Net with text is needed" in run("maps", "--model", folder)[1]
