"""Maps of the negative prompt's pass: `branch="negative"`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_adapters import STILL, pixels_of, session_of
from test_reentry_pipelines import session_of as reentry_session

import conceptlens as cl
from conceptlens.rerun import difference, rerun
from conceptlens.session import Session
from tiny_models import FAMILIES, Family
from tiny_reentry import TINY

pytestmark = pytest.mark.filterwarnings("ignore:.*CPU autocast")
A, B, CONCEPTS = "a red house", "a boat on the sea", ["house", "sky"]
ALONE = "flux2-klein"
"""Its negative prompt is always empty."""
SWAPPED = [name for name in FAMILIES if name not in ("flux2-dev", ALONE)]


def painted(session: Session, prompt: str, negative: str | None, family: Family, **options: Any) -> Any:
    texts = {} if negative is None else {"negative_prompt": negative}
    call = {"seed": 3, "num_inference_steps": 2, **family.guided, **texts, **STILL[family.video], **options}
    return session.generate(prompt, CONCEPTS, **call)


@pytest.mark.parametrize("name", SWAPPED)
def test_the_negative_pass_is_the_prompts_own_with_the_roles_swapped(name: str) -> None:
    """On the first step both passes see the same latents, so that the two prompts may change places."""
    family = FAMILIES[name]
    session = session_of(family.pipeline())
    negative = painted(session, A, B, family, branch="negative", steps=(0,))
    swapped = painted(session, B, A, family, steps=(0,))
    torch.testing.assert_close(negative.scores, swapped.scores, rtol=1e-5, atol=1e-6)
    own = painted(session, A, B, family, steps=(0,))
    assert not torch.allclose(negative.scores, own.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*SWAPPED, ALONE])
def test_the_picture_is_the_same_whatever_branch_is_read(name: str) -> None:
    family = FAMILIES[name]
    session = session_of(family.pipeline())
    text = None if name == ALONE else B
    negative, own = (painted(session, A, text, family, keep=True, branch=branch) for branch in ("negative", "prompt"))
    assert np.array_equal(pixels_of(negative), pixels_of(own))
    assert negative.parts.shape == own.parts.shape
    assert torch.isfinite(negative.scores).all()
    assert not torch.equal(negative.scores, own.scores)
    assert negative.recipe.branch == "negative"
    assert "negative branch" in negative.describe()
    assert "branch" not in own.describe()


@pytest.mark.parametrize("name", TINY)
def test_families_without_an_adapter_of_their_own(name: str) -> None:
    tiny = TINY[name]
    session = reentry_session(tiny.pipeline())
    call = {"seed": 3, "num_inference_steps": 1, **tiny.guided}
    negative = session.generate(A, CONCEPTS, branch="negative", **{**call, "negative_prompt": B})
    if name != "lumina2":  # its pipeline puts a text of its own before the prompt and not before the negative one
        swapped = session.generate(B, CONCEPTS, **{**call, "negative_prompt": A})
        torch.testing.assert_close(negative.scores, swapped.scores, rtol=1e-4, atol=1e-5)
    own = session.generate(A, CONCEPTS, **{**call, "negative_prompt": B})
    assert np.array_equal(pixels_of(negative), pixels_of(own))
    assert not torch.allclose(negative.scores, own.scores, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "steps"), [(name, 3) for name in FAMILIES if name != "hunyuan-video-1.5"] + [("flux", 1), ("sd3", 1)]
)
def test_without_guidance_there_is_no_such_pass(name: str, steps: int) -> None:
    family = FAMILIES[name]
    session = session_of(family.pipeline())
    call = {"seed": 3, "num_inference_steps": steps, **family.plain, **STILL[family.video]}
    with pytest.raises(cl.RecipeError, match="branch='negative' follows the pass of the negative prompt"):
        session.generate(A, CONCEPTS, branch="negative", **call)


def test_unlabelled_calls_are_told_apart() -> None:
    from diffusers import FluxImg2ImgPipeline

    pipeline = FluxImg2ImgPipeline(**FAMILIES["flux"].pipeline().components)
    pipeline.set_progress_bar_config(disable=True)
    session = session_of(pipeline)
    call = {"image": Image.new("RGB", (24, 16), "red"), "strength": 1.0, "num_inference_steps": 3, "seed": 0}
    call |= {"true_cfg_scale": 4.0}
    negative = session.generate(A, CONCEPTS, steps=(0,), branch="negative", negative_prompt=B, **call)
    swapped = session.generate(B, CONCEPTS, steps=(0,), negative_prompt=A, **call)
    assert negative.details["steps"] == 3
    torch.testing.assert_close(negative.scores, swapped.scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sd3.5-medium", "flux"])
def test_a_batch_and_a_record_follow_the_negative_pass(name: str) -> None:
    family = FAMILIES[name]
    session = session_of(family.pipeline())
    call = {"num_inference_steps": 2, **family.guided, "negative_prompt": B}
    both = session.generate([A, "the sun"], CONCEPTS, seed=1, branch="negative", **call)
    assert len(both) == 2
    maps = session.generate(A, CONCEPTS, seed=1, branch="negative", record=True, **call)
    assert maps.record is not None
    assert torch.equal(session.probe(maps.record, CONCEPTS).scores, maps.scores)
    with pytest.raises(cl.RecipeError, match="this record is of the negative branch; got branch='prompt'"):
        session.probe(maps.record, CONCEPTS, branch="prompt")


def test_what_cannot_follow_a_negative_prompt_says_so(demo: Session) -> None:
    with pytest.raises(cl.RecipeError, match="branch must be one of prompt, negative; got 'other'"):
        demo.generate(A, CONCEPTS, branch="other")
    with pytest.raises(cl.RecipeError, match="a reading has one pass"):
        demo.read(Image.new("RGB", (64, 64)), branch="negative")
    with pytest.raises(cl.RecipeError, match="maps of the prompt's own pass alone"):
        demo.generate(A, CONCEPTS, guide="tsam:transformer", branch="negative")


def test_it_is_saved_and_repeated(demo: Session, tmp_path: Path) -> None:
    call = {"true_cfg_scale": 2.0, "negative_prompt": "a tree", "num_inference_steps": 2}
    maps = demo.generate(A, CONCEPTS, seed=5, branch="negative", **call)
    maps.save(tmp_path)
    assert maps.provenance()["recipe"]["branch"] == "negative"
    again = rerun(tmp_path, session=demo)
    assert again.recipe == maps.recipe
    assert difference(again, tmp_path) == 0
