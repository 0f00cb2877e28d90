"""Guidance in sessions and on the command line: what is painted, mapped, saved, repeated and refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import HeunDiscreteScheduler
from PIL import Image

import conceptlens as cl
from conceptlens import cli
from conceptlens.features import features
from conceptlens.guidance import TSAM, Conform, GuidedMaps, demo_folder, guidance_named, guide
from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.methods import method_named
from conceptlens.readers.unet_inputs import attention_size
from conceptlens.readers.unet_painter import UnetPainter
from conceptlens.readers.unets import UnetReader, is_unet
from conceptlens.rerun import difference, rerun
from conceptlens.session import Session
from tiny_models import sd3_pipeline
from tiny_sd import sd_pipeline, sdxl_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' schedulers
PROMPT = "a red house and a blue boat"
DIT = TSAM.preset("transformer", alpha=0.05, steps=(0, 1))


@pytest.fixture(scope="module")
def unet() -> Session:
    return cl.load("demo-unet", device="cpu")


def here(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["conceptlens", *arguments])
    monkeypatch.setattr("warnings.showwarning", lambda *_, **__: None)
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_command_line_on_the_embedded_unet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = ["generate", PROMPT, "--model", "demo-unet", "--guide", "tsam:paper-ae", "--set", "guide.alpha=3"]
    asked += ["--set", "guide.steps=0-1", "--steps", "3", "--seed", "4", "--compare", "--json", "-o", str(tmp_path)]
    assert here(monkeypatch, *asked) == 0
    said = json.loads(capfd.readouterr().out)
    assert (said["model"], said["seed"], said["concepts"]) == ("demo-unet", 4, ["house", "boat"])
    assert (said["guidance"]["method"], said["guidance"]["alpha"], said["guidance"]["gamma"]) == ("tsam", 3.0, 4.0)
    assert [loss[0] for loss in said["losses"]] == [0, 1]
    assert said["settings"] == {"attention_size": [16, 16]}
    assert {"image.png", "plain.png", "compare.png", "loss.png", "heatmap-1-boat.png", "maps.json"} <= {
        path.name for path in tmp_path.iterdir()
    }
    assert 'alt="compare"' in (tmp_path / "report.html").read_text()
    again = rerun(tmp_path)
    assert isinstance(again, GuidedMaps)
    assert difference(again, tmp_path) == 0.0


def test_the_command_line_on_the_embedded_transformer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = ["generate", PROMPT, "-c", "house", "-c", "boat", "--guide", "tsam:transformer", "--layers", "2-3"]
    asked += ["--set", "guide.steps=0", "--set", "guide.maps=joint", "--steps", "2", "--json", "-o", str(tmp_path)]
    assert here(monkeypatch, *asked) == 0
    said = json.loads(capfd.readouterr().out)
    assert (said["concepts"], said["recipe"]["layers"]) == (["house", "boat"], [2, 3])
    assert (said["guidance"]["maps"], said["guidance"]["experimental"]) == ("joint", True)
    assert len(said["losses"]) == 1
    assert not (tmp_path / "compare.png").exists()
    assert difference(rerun(tmp_path), tmp_path) == 0.0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--guide", "magic"], "no guidance 'magic'. Known: attend-and-excite, conform, syngen, tsam;"),
        (["--guide", "tsam"], r"is an experiment without published settings. Say experimental=True"),
        (["--guide", "tsam:best"], "no T-SAM preset 'best'"),
        (["--guide", "syngen:best"], "syngen has no preset 'best'"),
        (["--guide", "tsam", "--set", "guide.colour=1"], "tsam has no setting 'colour'. It has: alpha"),
        (["--guide", "tsam", "--set", "guide.alpha=much"], "alpha must be a finite step size; got 'much'"),
        (["--set", "guide.alpha=1", "-c", "house"], "--set guide.alpha is of guidance, and there is no --guide"),
        (["--compare", "-c", "house"], "there is no guidance. Give guide"),
    ],
)
def test_what_the_command_line_refuses(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert here(monkeypatch, "generate", PROMPT, *arguments) == 2
    said = capfd.readouterr().err.strip()
    assert said.count("\n") == 0
    assert says.replace(r"\.", ".") in said


def test_the_page_needs_a_model_that_can_be_asked_again(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert here(monkeypatch, "app", "--model", "demo-unet", "--no-browser") == 2
    assert "demo-unet is a U-Net, which cannot keep a record of what it paints" in capfd.readouterr().err


def test_settings_from_json() -> None:
    found = guidance_named("conform", {"inner": {"0": 2}, "groups": [["red", "house"], ["boat"]], "steps": [0, 1]})
    assert found == Conform(inner={0: 2}, groups=(["red", "house"], ["boat"]), steps=(0, 1))
    settings = {name: value for name, value in json.loads(json.dumps(DIT.settings())).items() if name != "method"}
    assert guidance_named("tsam", settings) == DIT


def test_a_session_on_a_unet_paints_what_the_pipeline_paints(unet: Session) -> None:
    options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0}
    maps = unet.generate(PROMPT, ["red house", "boat"], seed=3, **options)
    assert not isinstance(maps, GuidedMaps)
    plain = unet.pipeline(PROMPT, generator=torch.Generator().manual_seed(3), **options).images[0]
    assert maps.image.tobytes() == plain.convert("RGB").tobytes()
    assert maps.scores.shape == (2, 16, 16)
    assert maps.provenance()["guidance"] is None
    both = unet.generate(PROMPT, ["red", "house"], seed=3, **options)
    torch.testing.assert_close(maps["red house"], both.scores.mean(0))
    guided = unet.generate(PROMPT, ["red house"], seed=3, guide=TSAM(), compare=True, **options)
    assert guided.plain is not None
    torch.testing.assert_close(guided.plain["red house"], maps["red house"])
    assert (guided["red house"] - maps["red house"]).abs().max() > 1e-3
    assert guided.run is not None
    assert guided.run.losses.shape == (2, 1)
    assert "guidance tsam · alpha 10.0" in guided.describe()


def test_cross_attention_is_the_conditional_half(unet: Session) -> None:
    maps = unet.generate(PROMPT, seed=3, num_inference_steps=1, guidance_scale=1.0)
    again = unet.generate(PROMPT, seed=3, num_inference_steps=1, guidance_scale=7.0, negative_prompt="a moon")
    torch.testing.assert_close(maps.scores, again.scores, atol=1e-6, rtol=1e-4)


def test_several_pictures_of_a_unet(unet: Session) -> None:
    made = unet.generate([PROMPT, "a sun and a tree"], seed=3, num_inference_steps=1, guide=TSAM(steps=(0,)))
    assert [maps.asked for maps in made] == [("house", "boat"), ("sun", "tree")]
    assert [(maps.seed, maps.number) for maps in made if isinstance(maps, GuidedMaps)] == [(3, 0), (4, 1)]
    alone = unet.generate("a sun and a tree", seed=4, num_inference_steps=1, guide=TSAM(steps=(0,)))
    torch.testing.assert_close(made[1].scores, alone.scores, atol=1e-4, rtol=1e-3)


def test_words_with_marks_and_digits_are_mapped(unet: Session) -> None:
    options: dict[str, Any] = {"seed": 1, "num_inference_steps": 1}
    assert unet.generate("a 3D ship's red-brick sail", **options).asked == ("3d", "ship", "red-brick", "sail")
    assert unet.generate("a ship's sail", ["ship's"], **options).asked == ("ship's",)


def test_what_a_unet_cannot_do_is_one_error(unet: Session, tmp_path: Path) -> None:
    record = unet.read(Image.new("RGB", (64, 64), "red"), size=32)
    calls: dict[str, Any] = {
        "keep a record of what it paints. Paint, then read": lambda: unet.generate(PROMPT, record=True),
        "carry concepts through a text stream. Use the method daam or ovam": lambda: unet.adapter,
        "carry concepts through a text stream": lambda: method_named("concept-attention").load("demo-unet"),
        "give vectors of concepts. Use the method daam or ovam": lambda: features(unet, record, ["house"]),
    }
    for says, call in calls.items():
        with pytest.raises(cl.ModelError, match=f"demo-unet is a U-Net, which cannot {says}"):
            call()
    assert (unet.can, unet.family) == ({"generate", "read", "probe"}, "U-Net")
    unknown: list[dict[str, Any]] = [{"keep": True}, {"preset": "paper"}, {"space": "cross"}, {"background": ["sky"]}]
    for options in unknown:
        with pytest.raises(cl.RecipeError, match=f"a U-Net session has no {next(iter(options))}"):
            unet.generate(PROMPT, ["house"], **options)
    with pytest.raises(cl.ConceptError, match=r"'moon' is not in the prompt.*read the picture: read PHOTO"):
        unet.generate(PROMPT, ["moon"])
    with pytest.raises(cl.ConceptError, match="has no word to map"):
        unet.generate("of the")


def test_what_is_loaded_as_what(tmp_path: Path, demo: Session) -> None:
    assert isinstance(cl.load(sd_pipeline()).reader, UnetReader)
    assert cl.load(sdxl_pipeline()).family == "U-Net"
    assert type(demo) is Session
    assert is_unet(demo_folder())
    assert not is_unet("demo")
    with pytest.raises(cl.ModelError, match="no model_index.json"):
        is_unet(tmp_path)


def test_guidance_in_a_session_on_a_transformer(demo: Session) -> None:
    options: dict[str, Any] = {"num_inference_steps": 2}
    plain = demo.generate(PROMPT, ["house", "boat"], seed=3, **options)
    off = demo.generate(PROMPT, seed=3, guide=TSAM(alpha=0, experimental=True), **options)
    assert off.image.tobytes() == plain.image.tobytes()
    assert torch.equal(off.scores, plain.scores)
    named: Any = demo.generate(PROMPT, seed=3, guide="tsam:transformer", **options)
    assert (named.run.settings["alpha"], len(named.run.steps)) == (0.01, 2)
    guided: Any = demo.generate(PROMPT, seed=3, guide=DIT, compare=True, **options)
    assert (guided.concepts, guided.seed, guided.model_id) == (plain.concepts, 3, "demo")
    assert guided.plain.seed == 3
    assert torch.equal(guided.plain.scores, plain.scores)
    assert (guided.scores - plain.scores).abs().max() > 1e-2
    assert [step.step for step in guided.run.steps] == [0, 1]
    kept = demo.generate(PROMPT, seed=3, guide=DIT, record=True, **options)
    assert kept.record is not None
    assert (kept.seed, kept.record.seed) == (3, 3)
    torch.testing.assert_close(demo.probe(kept.record, ["house", "boat"]).scores, guided.scores)


def test_guidance_in_a_session_on_stable_diffusion_3() -> None:
    session = cl.load(sd3_pipeline())
    options: dict[str, Any] = {"num_inference_steps": 2, "height": 16, "width": 24, "guidance_scale": 4.0}
    several = session.generate([PROMPT, "a sun"], ["sun", "boat"], seed=3, guide=DIT, **options)
    assert [maps.seed for maps in several] == [3, 4]
    alone = session.generate(PROMPT, ["sun", "boat"], seed=3, guide=DIT, **options)
    torch.testing.assert_close(several[0].scores, alone.scores, atol=1e-3, rtol=1e-3)


def test_a_given_picture_cannot_be_guided(demo: Session) -> None:
    with pytest.raises(cl.RecipeError, match="guidance moves latents while a picture is painted"):
        demo.read("a.png", guide=TSAM())
    with pytest.raises(cl.RecipeError, match="generator cannot be given to guide. Give seed"):
        demo.generate(PROMPT, guide=DIT, generator=torch.Generator())


def test_a_scheduler_that_only_paints() -> None:
    pipeline = sd_pipeline()
    pipeline.scheduler = HeunDiscreteScheduler()
    session = cl.load(pipeline)
    assert session.generate(PROMPT, ["boat"], seed=1, num_inference_steps=2).scores.shape == (1, 8, 8)
    with pytest.raises(cl.ModelError, match="HeunDiscreteScheduler is of order 2"):
        session.generate(PROMPT, ["boat"], seed=1, guide=TSAM())


def test_the_size_of_the_maps() -> None:
    def size(*kinds: str) -> tuple[int, int]:
        config = type("Config", (), {"down_block_types": kinds})
        unet: Any = type("Unet", (), {"config": config})
        return attention_size(unet, (60, 64))

    cross, plain = "CrossAttnDownBlock2D", "DownBlock2D"
    assert size(cross, cross, cross, plain) == (15, 16)  # Stable Diffusion 1
    assert size(plain, cross, cross) == (15, 16)  # Stable Diffusion XL
    assert size(cross, cross) == (60, 64)
    assert size(plain, cross) == (30, 32)


LONG = "a red house and " * 30 + "a blue boat"


@pytest.mark.parametrize("make", [sd_pipeline, sdxl_pipeline])
def test_a_prompt_that_is_too_long_is_cut_as_ever(make: Any) -> None:
    options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "latent"}
    with pytest.warns(UserWarning, match=r"has 125 tokens and a text encoder reads 77; lost .*a blue boat'"):
        near = guide(make(), LONG, TSAM(alpha=1e-9, steps=(0,)), seed=3, **options)
    plain = make()(LONG, generator=torch.Generator().manual_seed(3), **options).images
    torch.testing.assert_close(near.images, plain, atol=1e-4, rtol=1e-4)
    assert len(near.texts[0].tokens) == 75
    assert near.targets[0] is not None
    torch.testing.assert_close(near.targets[0].sum(1), torch.ones(75))


def test_a_prompt_that_is_too_long_for_a_transformer() -> None:
    options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "latent", "height": 16, "width": 24}
    with pytest.warns(UserWarning, match="a text encoder reads 77; lost"):
        result = guide(sd3_pipeline(), LONG, DIT, **options)
    assert result.texts[0].tokens[-2:] == ("blue", "boat")  # T5 reads it all
    assert not result.texts[0].causal


def test_places_of_concepts_on_a_unet(unet: Session) -> None:
    painter = UnetPainter(unet.pipeline, unet.model_id)
    text = painter.text("a blue house and a red house")
    assert painter.places(text, ["blue house", "red house"]) == {"blue house": [2, 3], "red house": [6, 7]}
    with pytest.raises(cl.ConceptError, match="'house blue' is not in the prompt"):
        painter.places(text, ["house blue"])
    marked = painter.text("a red house! and a tree")
    assert painter.places(marked, ["house", "tree"]) == {"house": [3], "tree": [7]}, "an unknown mark ends no prompt"
    foreign = painter.text("a 房子 and a café")
    with pytest.warns(UserWarning, match="'é'"):
        assert list(painter.places(foreign, None)) == ["café"]
    with pytest.raises(cl.ConceptError, match="concept '房子' has no token that the CLIP tokenizer knows"):
        painter.places(foreign, ["房子"])
    with pytest.warns(UserWarning, match="concept 'café' is read without 'é'"):
        assert len(painter.places(foreign, ["café"])["café"]) == 3
    with pytest.warns(UserWarning, match="the prompt is read without '!'"):
        unet.generate("a red house! and a tree", ["tree"], seed=0, num_inference_steps=1)


def test_maps_that_were_looked_at_before_they_are_guided(unet: Session) -> None:
    maps = unet.generate(PROMPT, ["house", "boat"], seed=1, guide="tsam:paper-ae", num_inference_steps=2)
    plain = ConceptMaps(maps.concepts, maps.scores, maps.image, None, maps.model_id)
    winners = plain.segmentation()
    assert maps.run is not None
    again = GuidedMaps.of(plain, maps.run, 0, maps)
    assert (again.segmentation() == winners).all()
    assert (again.seed, again.plain) == (1, maps)
