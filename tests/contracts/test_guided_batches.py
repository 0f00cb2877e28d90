"""Whose rows are whose, whatever guidance puts into one call of the transformer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import PixArtSigmaPAGPipeline, StableDiffusion3PAGPipeline
from PIL import Image
from test_adapters import STILL, pixels_of, session_of

import conceptlens as cl
from conceptlens.families.kinds.calls import named_arguments
from conceptlens.readers.cross import load_cross
from conceptlens.watch.unet_attention import RunningMaps
from hooks import hooks_left
from tiny_cross import pixart_pipeline
from tiny_models import FAMILIES, cogvideox_pipeline, quiet, sd3_pipeline, sd30_transformer

A, B, CONCEPTS = "a red house", "a boat on the sea", ["house", "sky"]
FIRST: dict[str, Any] = {"num_inference_steps": 2, "steps": (0,)}
"""On the first step the latents are the same with any guidance."""
GUIDED: dict[str, Any] = {"guidance_scale": 4.0}
UNGUIDED: dict[str, Any] = {"guidance_scale": 1.0}


def perturbed(plain: Any, layers: tuple[str, ...]) -> StableDiffusion3PAGPipeline:
    parts = {n: part for n, part in plain.components.items() if n not in ("image_encoder", "feature_extractor")}
    return quiet(StableDiffusion3PAGPipeline(**parts, pag_applied_layers=list(layers)))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("layers", [("blocks.0",), ("blocks.1", "blocks.3")])
@pytest.mark.parametrize("guided", [GUIDED, UNGUIDED], ids=["guided", "alone"])
def test_perturbed_attention_leaves_the_prompts_maps(guided: dict[str, Any], layers: tuple[str, ...]) -> None:
    """Rows are negative, prompt, perturbed: maps are those of the plain pipeline, each of its own prompt."""
    plain = sd3_pipeline(sd30_transformer)
    wanted = session_of(plain).generate(A, CONCEPTS, seed=3, **FIRST, **guided)
    session = session_of(perturbed(plain, layers))
    both = session.generate([A, B], CONCEPTS, generator=generators(3, 4), **FIRST, **guided)
    torch.testing.assert_close(both[0].scores, wanted.scores, rtol=1e-5, atol=1e-6)
    other = session.generate(B, CONCEPTS, seed=4, **FIRST, **guided)
    torch.testing.assert_close(both[1].scores, other.scores, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(wanted.scores, other.scores, rtol=1e-3, atol=1e-4)
    assert hooks_left(session) == []


def test_perturbed_attention_paints_the_same_picture() -> None:
    pipeline = perturbed(sd3_pipeline(sd30_transformer), ("blocks.1",))
    session = session_of(pipeline)
    maps = session.generate(A, CONCEPTS, seed=3, num_inference_steps=2, **GUIDED)
    call: dict[str, Any] = {**session.generate_defaults, "num_inference_steps": 2, **GUIDED}
    made: Any = pipeline(prompt=A, generator=generators(3)[0], **call)
    assert np.array_equal(np.asarray(made.images[0]), pixels_of(maps)[0])


def test_the_negative_prompt_beside_perturbed_rows() -> None:
    plain = sd3_pipeline(sd30_transformer)
    asked: dict[str, Any] = {"seed": 3, "branch": "negative", "negative_prompt": B, **FIRST}
    wanted = session_of(plain).generate(A, CONCEPTS, **asked, **GUIDED)
    session = session_of(perturbed(plain, ("blocks.1",)))
    torch.testing.assert_close(
        session.generate(A, CONCEPTS, **asked, **GUIDED).scores, wanted.scores, rtol=1e-5, atol=1e-6
    )
    with pytest.raises(cl.RecipeError, match="branch='negative' follows the pass of the negative prompt"):
        session.generate(A, CONCEPTS, **asked, **UNGUIDED)  # the other half is the perturbed prompt


def test_a_refusal_leaves_the_models_own_attention_processors() -> None:
    pipeline = perturbed(sd3_pipeline(sd30_transformer), ("blocks.1",))
    before = {name: type(part) for name, part in pipeline.transformer.attn_processors.items()}
    with pytest.raises(cl.RecipeError, match="branch='negative' follows"):
        session_of(pipeline).generate(A, CONCEPTS, seed=3, branch="negative", **FIRST, **UNGUIDED)
    assert {name: type(part) for name, part in pipeline.transformer.attn_processors.items()} == before


@pytest.mark.parametrize("branch", ["prompt", "negative"])
def test_skipped_layers_are_a_call_of_neither_prompt(branch: str) -> None:
    session = session_of(sd3_pipeline())
    call: dict[str, Any] = {"seed": 3, "num_inference_steps": 3, "steps": (0,), "branch": branch, **GUIDED}
    skipping: dict[str, Any] = {
        "skip_guidance_layers": [1],
        "skip_layer_guidance_start": 0.0,
        "skip_layer_guidance_stop": 1.0,
    }
    wanted = session.generate([A, B], CONCEPTS, **call)
    found = session.generate([A, B], CONCEPTS, **call, **skipping)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.scores, other.scores)
        assert one.details["steps"] == 3


def test_a_guidance_scale_that_changes_on_the_way() -> None:
    """CogVideoX may lower its guidance scale to 1 and less; its batch has both prompts all the same."""
    session = session_of(cogvideox_pipeline())
    call: dict[str, Any] = {"seed": 3, "num_inference_steps": 4, **FAMILIES["cogvideox-2b"].guided, **STILL[True]}
    fixed = session.generate(A, CONCEPTS, **call, steps=(0,))
    moving = session.generate(A, CONCEPTS, **call, steps=(0,), use_dynamic_cfg=True)
    assert torch.equal(fixed.scores, moving.scores)
    both = session.generate([A, B], CONCEPTS, **call, use_dynamic_cfg=True)
    assert [maps.details["steps"] for maps in both] == [4, 4]


@pytest.mark.parametrize("name", ["flux", "sd3.5-large", "aura-flow", "mochi"])
def test_an_unknown_layout_of_the_batch_is_one_clear_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline that paints more rows than is known of: not one row of it is taken for another's."""
    family = FAMILIES[name]
    session = session_of(family.pipeline())
    kind = type(session.pipeline.transformer)
    call = kind.__call__

    def thrice(self: Any, *args: Any, **given: Any) -> Any:
        named = named_arguments(self, args, given)
        count = len(named["hidden_states"])
        rows = {n: v for n, v in named.items() if torch.is_tensor(v) and v.ndim > 0 and len(v) == count}
        return call(self, **{**named, **{n: torch.cat([v] * 3) for n, v in rows.items()}})

    monkeypatch.setattr(kind, "__call__", thrice)
    with pytest.raises(
        cl.ModelError, match=r"with \d rows for 1 picture\(s\), where .* expected: whose rows are whose"
    ):
        session.generate(A, CONCEPTS, seed=3, **FIRST, **family.guided, **STILL[family.video])


def test_cross_attention_of_a_pipeline_with_perturbed_attention() -> None:
    """It is read without that guidance, and its processors are not left behind."""
    plain = pixart_pipeline()
    pipeline = quiet(PixArtSigmaPAGPipeline(**plain.components, pag_applied_layers=["blocks.1"]))
    picture = Image.new("RGB", (32, 32), "red")
    found = []
    for model in (load_cross(plain), load_cross(pipeline)):
        record = model.read(picture, A, model.recipe(None, {"noise": 0.5, "layers": (0, 1)}), 0, {})
        house = model.probe(record, ("house",), record.recipe, {})
        found.append(house.scores)
    assert torch.equal(*found)


def test_rows_of_a_unet() -> None:
    """The prompt's are the last of one or two parts; of another number nothing is known."""
    maps = torch.rand(4, 4, 3)
    sink = RunningMaps((2, 2), 2)
    sink.add("layer", maps)
    torch.testing.assert_close(sink.mean(), maps[2:].transpose(1, 2).unflatten(2, (2, 2)), rtol=0, atol=0)
    with pytest.raises(cl.ModelError, match=r"the U-Net was called with 6 rows for 2 picture\(s\)"):
        sink.add("layer", torch.rand(6, 4, 3))
