"""What callers give: seeds, latents, callbacks, tokens of their own; and what a call leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import conceptlens as cl
from conceptlens.guidance import TSAM, AttendAndExcite, guide
from conceptlens.guidance.driver import _Run
from conceptlens.guidance.unets import GuidedUnet
from conceptlens.session import Session
from tiny_models import sd3_pipeline
from tiny_sd import SCHEDULERS, sd_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' schedulers

PROMPT = "a red house and a blue boat"
SMALL: dict[str, Any] = {"attention_size": (8, 8), "grad_norm": "rms"}
CALL: dict[str, Any] = {"num_inference_steps": 3, "output_type": "latent"}


def latents_of(pipeline: Any, guidance: Any, **options: Any) -> torch.Tensor:
    return guide(pipeline, PROMPT, guidance, seed=3, **{**CALL, **options}).images


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [(0, 1), (1,)], ids=str)
def test_latents_of_ones_own(name: str, steps: tuple[int, ...]) -> None:
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    guidance = TSAM(alpha=0.1, steps=steps, **SMALL)
    assert torch.equal(
        latents_of(sd_pipeline(name), guidance), latents_of(sd_pipeline(name), guidance, latents=noise.clone())
    )


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_pipeline_is_used_again(name: str) -> None:
    used, guidance = sd_pipeline(name), TSAM(alpha=0.1, **SMALL)
    latents_of(used, guidance, num_inference_steps=5)
    assert torch.equal(latents_of(used, guidance), latents_of(sd_pipeline(name), guidance))
    assert torch.equal(latents_of(used, TSAM(alpha=0)), latents_of(sd_pipeline(name), TSAM(alpha=0)))


def test_callbacks() -> None:
    guidance = TSAM(alpha=1e-9, **SMALL)

    def fade(_pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": tensors["latents"] * 0.9}

    def stop(pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = True
        return tensors

    faded = latents_of(sd_pipeline(), guidance, callback_on_step_end=fade)
    plain = latents_of(sd_pipeline(), TSAM(alpha=0), callback_on_step_end=fade)
    torch.testing.assert_close(faded, plain, atol=1e-4, rtol=1e-4)
    assert (faded - latents_of(sd_pipeline(), guidance)).abs().max() > 0.1
    stopped = guide(sd_pipeline(), PROMPT, guidance, callback_on_step_end=stop, **CALL)
    assert [step.step for step in stopped.steps] == [0]
    none = latents_of(sd_pipeline(), guidance, callback_on_step_end_tensor_inputs=None)  # the pipeline takes that, too
    assert torch.equal(none, latents_of(sd_pipeline(), guidance))


SEED = "seed must be one number of 64 bits, or one for each of 1 images; got"
SAID = {
    'TSAM(alpha="10")': "alpha must be a finite step size; got '10'. Use 0 for no guidance.",
    "TSAM(alpha=True)": "alpha must be a finite step size; got True. Use 0 for no guidance.",
    "TSAM(gamma='4')": "gamma must be a finite number above 0; got '4'.",
    "TSAM(steps=5)": "steps must be whole numbers from 0 (the noisiest); got 5.",
    "TSAM(inner=3)": "inner must give a number of updates for each step; got 3.",
    "guidance_named('tsam', {'inner': 3})": "inner must give a number of updates for each step; got 3.",
    "TSAM(bounds={0: 'low'})": "bounds must give a loss for each step; got {0: 'low'}.",
    "TSAM(attention_size=16)": "attention_size must be two whole numbers, (rows, cols); got 16.",
    "Conform(smoothing=None)": "smoothing must be (kernel size, sigma), an odd whole number and a number above 0; "
    "got None.",
    "run(TSAM(text_layers=1))": "text_layers must be all, used, or numbers; got 1.",
    "run(Conform(groups=5))": "groups must be lists of words, the noun last in each; got 5.",
    "run(AttendAndExcite(words=5))": "words must be a list of words of the prompt; got 5.",
    "run(TSAM(), prompt=None)": "the prompt must be a text or a list of texts; got [None]. Say what to paint.",
    "run(TSAM(), seed=None)": f"{SEED} None.",
    "run(TSAM(), seed='3')": f"{SEED} '3'.",
    "run(TSAM(), seed=[1.5])": f"{SEED} [1.5].",
    "run(TSAM(attention_size=[8, 8], alpha=np.float32(0), steps=np.arange(2)), seed=np.int64(3)).seeds": "(3,)",
    "json.dumps(TSAM(alpha=np.float32(0.5), steps=np.arange(2)).settings())[:53]": (
        '{"method": "tsam", "alpha": 0.5, "steps": [0, 1], "al'
    ),
}
SCRIPT = """
import json, sys
import numpy as np
from conceptlens import ConceptlensError
from conceptlens.guidance import *
from tiny_sd import sd_pipeline

def run(guidance, prompt="a red house and a blue boat", **options):
    return guide(sd_pipeline(), prompt, guidance, num_inference_steps=2, output_type="latent", **options)

said = {}
for call in json.loads(sys.argv[1]):
    try:
        said[call] = str(eval(call))
    except ConceptlensError as error:
        said[call] = str(error)
print(json.dumps(said))
"""


def test_wrong_kinds_are_told_in_one_line() -> None:
    """In a process of its own: here, types are checked at every call."""
    folder = Path(__file__).parents[1]
    paths = os.pathsep.join([str(folder), str(Path(cl.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, json.dumps(list(SAID))],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == SAID


def test_a_tiny_gradient_is_no_large_step() -> None:
    pipeline, guidance = sd_pipeline(), TSAM(alpha=0.1, **SMALL)
    run = _Run(
        GuidedUnet(pipeline, [PROMPT], guidance, [torch.Generator().manual_seed(3)], CALL), guidance, pipeline.scheduler
    )
    latents = run.model.latents
    gradient = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    for size in (1.0, 1e-10, 1e-18, 1e-21, 1e-24, 1e-30, 0.0):
        moved = (run.move(latents, size * gradient, 0.1) - latents).square().mean().sqrt().item()
        assert moved <= 0.1 * latents.square().mean().sqrt().item() * 1.001, size
        assert (moved > 0.09) == (size > 1e-19), size


def test_maps_are_let_go_of_after_a_failure() -> None:
    pipeline, guidance = sd_pipeline(), TSAM(alpha=0.1, **SMALL)
    model = GuidedUnet(pipeline, [PROMPT], guidance, [torch.Generator().manual_seed(3)], CALL)
    with pytest.raises(ZeroDivisionError), model.reading():
        _ = model.maps(model.latents, pipeline.scheduler.timesteps[0])[0] * (len(model.sink.maps) / 0)
    assert not model.sink.maps


def test_tokens_that_were_added_are_words() -> None:
    pipeline = sd_pipeline()
    pipeline.tokenizer.add_tokens(["<toy>", "<toy>_1"])
    pipeline.text_encoder.resize_token_embeddings(len(pipeline.tokenizer))
    prompt = "a <toy> on a red boat"
    text = guide(pipeline, prompt, TSAM(alpha=0.1, steps=(0,), **SMALL), **CALL).texts[0]
    assert text.tokens[1:3] == ("<toy>", "<toy>_1")  # the pipeline puts both vectors in
    assert [word for word, _ in text.words] == prompt.split()
    assert text.groups(None) == (((2, 3),), ((6,), (7,)))


def test_an_image_that_was_done_early_is_plain_json(tmp_path: Path) -> None:
    session: Any = cl.load(sd_pipeline())
    prompts, options = [PROMPT, "a sun and a tree"], {"seed": 3, "num_inference_steps": 2}
    settings: dict[str, Any] = {"steps": (0,), "attention_size": (8, 8)}
    first = session.generate(prompts, guide=AttendAndExcite(**settings, inner={}), **options)[0].run.losses[0]
    guidance = AttendAndExcite(**settings, inner={0: 1}, bounds={0: first.mean().item()})
    made = session.generate(prompts, guide=guidance, **options)
    assert [maps.details["losses"][0][1] is None for maps in made].count(True) == 1
    for number, maps in enumerate(made):
        maps.save(tmp_path / str(number))
        told = (tmp_path / str(number) / "maps.json").read_text()
        json.loads(told, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_each_picture_tells_what_it_was_not_to_show() -> None:
    session: Any = cl.load(sd_pipeline())
    made = session.generate([PROMPT, "a sun"], seed=3, num_inference_steps=1, negative_prompt=["a moon", "a tree"])
    assert [maps.details["pipeline"]["negative_prompt"] for maps in made] == ["a moon", "a tree"]
    both = session.generate([PROMPT, "a sun"], seed=3, num_inference_steps=1, negative_prompt="a moon")
    assert [maps.details["pipeline"]["negative_prompt"] for maps in both] == ["a moon", "a moon"]


def test_a_run_that_begins_again_is_told_once(demo: Session) -> None:
    guidance = TSAM.preset("transformer", steps=range(4))
    options: dict[str, Any] = {"seed": 3, "guide": guidance, "num_inference_steps": 4, "steps": (2, 3)}
    whole: Any = demo.generate(PROMPT, record=True, **options)
    budget = int(
        0.7 * sum(t.nbytes for layer in whole.record.layers for t in vars(layer).values() if torch.is_tensor(t))
    )
    with pytest.warns(UserWarning, match="of 2 steps the record has room for 1"):
        fitted: Any = demo.generate(PROMPT, record="fit", record_budget=budget, **options)
    assert [step.step for step in fitted.run.steps] == [0, 1, 2, 3]
    assert torch.equal(fitted.run.losses, whole.run.losses)


def test_skipped_layers_of_clip() -> None:
    options: dict[str, Any] = {**CALL, "height": 16, "width": 24}
    guidance = TSAM(experimental=True, alpha=0.01, grad_norm="rms", steps=(0,), text_encoders="clip")
    counts = [
        guide(sd3_pipeline(), PROMPT, guidance, **options, **more).texts[0].unused_layers
        for more in ({}, {"clip_skip": 1})
    ]
    assert counts == [1, 2]
