"""Attention between prompt and patches: against what the models' own attention calls compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers.models.transformers.transformer_flux as flux_module
import numpy as np
import pytest
import torch
from PIL import Image

import conceptlens as cl
from conceptlens.methods import method_named
from conceptlens.methods.cross_attention_prompt import PromptCrossAttention
from conceptlens.readers.prompt_places import t5_positions
from conceptlens.session import Session
from conceptlens.values.errors import ConceptError, ModelError, RecipeError
from hooks import hooks_left
from specimens.families import sd3_transformer, sd30_transformer
from tiny_models import flux_pipeline, sd3_pipeline, tokenizers
from tiny_unets import METHODS_TINY_UNET, SIDE, saved

IMAGE_TOKENS = (SIDE // 4) ** 2


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return cl.load(saved(flux_pipeline, tmp_path_factory.mktemp("flux")), device="cpu")


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return cl.load(saved(lambda: sd3_pipeline(sd3_transformer), tmp_path_factory.mktemp("sd3")), device="cpu")


@contextmanager
def joint_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Queries and keys (batch, head, text + image, dim), text first, of every joint attention call, in order."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    flux_own, sd3_own = flux_module.dispatch_attention_fn, torch.nn.functional.scaled_dot_product_attention

    def flux_call(query: Any, key: Any, value: Any, **more: Any) -> Any:
        seen.append((query.transpose(1, 2), key.transpose(1, 2)))
        return flux_own(query, key, value, **more)

    def sd3_call(query: Any, key: Any, value: Any, **more: Any) -> Any:
        if query.shape == key.shape and query.shape[2] == IMAGE_TOKENS + 77 + 256:
            seen.append(tuple(t.roll(-IMAGE_TOKENS, dims=2) for t in (query, key)))
        return sd3_own(query, key, value, **more)

    with monkeypatch.context() as patch:
        patch.setattr(flux_module, "dispatch_attention_fn", flux_call)
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", sd3_call)
        yield seen


def grids(rows: torch.Tensor) -> torch.Tensor:
    return rows.unflatten(-1, (SIDE // 4, -1))


def test_text_to_image_is_the_models_own_attention(
    flux: Session, image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = PromptCrossAttention(flux, layers=(1, 3), samples=2)
    with joint_calls(monkeypatch) as seen:
        maps = method.explain(image, ["tree", "dog"], prompt="a tree")
    assert len(seen) == 4
    assert maps.prompt == "a tree, a dog"
    assert maps.details["tokens"]["tree"] == [1]
    dog = maps.details["tokens"]["dog"]
    assert len(dog) > 1, "the toy vocabulary must split this word"
    assert dog[0] == 4
    wanted = {"tree": torch.zeros(IMAGE_TOKENS), "dog": torch.zeros(IMAGE_TOKENS)}
    for layer in (1, 3):
        query, key = seen[layer]
        joint = (query @ key.transpose(-1, -2) / 24**0.5).softmax(-1)
        for name in wanted:
            for token in maps.details["tokens"][name]:
                row = joint[:, :, token, 512:].mean((0, 1)) / len(maps.details["tokens"][name])
                wanted[name] += row / 2
    for name, rows in wanted.items():
        torch.testing.assert_close(maps[name], grids(rows), rtol=1e-5, atol=1e-7)


def test_without_softmax_it_is_the_mean_dot_product(
    flux: Session, image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    with joint_calls(monkeypatch) as seen:
        maps = PromptCrossAttention(flux, layers=2, softmax=False).explain(image, ["tree"], prompt="a tree")
    query, key = seen[2]
    dots = torch.stack([query[0, h, 1] @ key[0, h, 512:].T for h in range(2)]).mean(0)
    torch.testing.assert_close(maps["tree"], grids(dots), rtol=1e-5, atol=1e-5)


def test_image_to_text_averages_heads_before_the_softmax(
    sd3: Session, image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    with joint_calls(monkeypatch) as seen:
        maps = PromptCrossAttention(sd3, layers=(0, 3)).explain(image, ["tree", "sun"], prompt="a tree")
    assert len(seen) == 4
    assert maps.details["tokens"] == {"tree": [2], "sun": [5]}
    wanted = torch.zeros(2, IMAGE_TOKENS)
    for layer in (0, 3):
        query, key = seen[layer]
        for patch in range(IMAGE_TOKENS):
            dots = torch.stack([key[0, h, :333] @ query[0, h, 333 + patch] for h in range(2)])
            wanted[:, patch] += dots.mean(0).softmax(0)[[2, 5]] / 2
    torch.testing.assert_close(maps.scores, grids(wanted), rtol=1e-4, atol=1e-7)


def test_image_to_text_in_flux_is_before_rotation(flux: Session, image: Image.Image) -> None:
    attn, kept = flux.pipeline.transformer.transformer_blocks[1].attn, {}
    handles = [
        module.register_forward_hook(lambda m, given, out, name=name: kept.__setitem__(name, out[0]))
        for name, module in (("query", attn.norm_q), ("key", attn.norm_added_k))
    ]
    method = PromptCrossAttention(flux, direction="image-to-text", layers=1)
    maps = method.explain(image, ["tree"], prompt="a tree")
    for handle in handles:
        handle.remove()
    dots = torch.einsum("thd,nhd->tn", kept["key"], kept["query"]) / 2
    torch.testing.assert_close(maps["tree"], grids(dots.softmax(0)[1]), rtol=1e-4, atol=1e-7)


def test_the_paper_protocol_takes_one_token_for_all(
    sd3: Session, image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = PromptCrossAttention(sd3, protocol="paper")
    assert method.settings["layers"] == [0, 1, 2, 3]
    assert method.settings["noise"] == 0.602
    with joint_calls(monkeypatch) as seen:
        maps = method.explain(image, ["tree", "background"], prompt="a tree")
    assert maps.prompt == "a tree"
    assert torch.equal(maps["tree"], maps["background"])
    shares = [
        torch.einsum("htd,hnd->tn", key[0, :, :333], query[0, :, 333:]).div(2).softmax(0)[2] for query, key in seen
    ]
    torch.testing.assert_close(maps["tree"], grids(torch.stack(shares).mean(0)), rtol=1e-4, atol=1e-7)


def test_the_paper_protocol_is_for_stable_diffusion_3(flux: Session, sd3: Session) -> None:
    with pytest.raises(RecipeError, match="For the published row of FLUX.1 use the method cross-attention"):
        PromptCrossAttention(flux, protocol="paper")
    with pytest.raises(RecipeError, match="image-to-text"):
        PromptCrossAttention(sd3, protocol="paper", direction="text-to-image")


def test_concepts_that_the_prompt_lacks_are_added(flux: Session, sd3: Session) -> None:
    method = PromptCrossAttention(flux)
    assert method.text(["tree", "sun"], "a tree, in the sun") == "a tree, in the sun"
    assert method.text(["tree"], "a Tree") == "a Tree, a tree", "T5 tells capitals apart"
    assert PromptCrossAttention(sd3).text(["tree"], "a Tree") == "a Tree", "CLIP does not"
    assert method.text(["tree", "sun"], "a tree") == "a tree, a sun"
    assert method.text(["tree"], "trees") == "trees, a tree"
    assert method.text(["tree", "sun"], "") == "a tree, a sun"
    assert method.text(["red tree"], "a tree") == "a tree, a red tree"
    assert PromptCrossAttention(sd3, protocol="paper").text(["sun"], "a tree") == "a tree"


def test_a_word_that_begins_another_is_not_found_in_it() -> None:
    _, t5 = tokenizers()
    assert t5.tokenize("trees")[0] == t5.tokenize("tree")[0], "the toy vocabulary must split this word"
    assert t5_positions(t5, "a tree", "tree", 32) == t5_positions(t5, "a tree, a sun", "tree", 32) == (1,)
    with pytest.raises(ConceptError, match="'tree' is not in the prompt 'a trees'"):
        t5_positions(t5, "a trees", "tree", 32)
    assert t5_positions(t5, "sun " * 30 + "tree", "tree", 32) == (30,)
    with pytest.raises(ConceptError, match="stands behind the 31 tokens that the T5 text encoder reads"):
        t5_positions(t5, "sun " * 31 + "tree", "tree", 32)


def test_too_many_concepts_are_refused(sd3: Session, image: Image.Image) -> None:
    names = [f"{'sun ' * 20}{end}" for end in ("tree", "house", "boat", "ball")]
    with pytest.raises(ConceptError, match="stands behind the 75 tokens that the CLIP text encoder reads"):
        PromptCrossAttention(sd3).explain(image, names)


def test_no_hooks_are_left(flux: Session, image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    method = PromptCrossAttention(flux, layers=(0, 1))
    method.explain(image, ["tree"])
    assert hooks_left(flux) == []

    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("stop")

    with monkeypatch.context() as patch:
        patch.setattr(flux_module, "dispatch_attention_fn", fail)
        with pytest.raises(KeyError, match="stop"):
            method.explain(image, ["tree"])
    assert hooks_left(flux) == []


def test_a_model_without_norms_is_read_at_its_projections(image: Image.Image, tmp_path: Path) -> None:
    session = cl.load(saved(lambda: sd3_pipeline(sd30_transformer), tmp_path), device="cpu")
    method = PromptCrossAttention(session, layers=1)
    assert method.explain(image, ["tree"]).scores.shape == (1, 8, 8)
    session.pipeline.transformer.fuse_qkv_projections()
    with pytest.raises(ModelError, match="block 1 ran without passing its text side by: its projections are fused"):
        method.explain(image, ["tree"])


def test_other_options_are_refused(flux: Session) -> None:
    with pytest.raises(RecipeError, match="no option 'space'"):
        PromptCrossAttention(flux, space="value")
    with pytest.raises(RecipeError, match="layers has 9"):
        PromptCrossAttention(flux, layers=9)
    with pytest.raises(RecipeError, match="direction must be one of text-to-image, image-to-text, None; got 'up'"):
        PromptCrossAttention(flux, direction="up")


def test_a_folder_opens_and_explains(image: Image.Image, tmp_path: Path) -> None:
    folder, options = METHODS_TINY_UNET["cross-attention-prompt"](tmp_path)
    method = method_named("cross-attention-prompt").load(folder, device="cpu", **options)
    maps = method.explain(image, ["tree", "sun"], prompt="a tree")
    assert maps.scores.shape == (2, 8, 8)
    assert maps.scores.dtype == torch.float32
    assert maps.recipe is None
    assert maps.details["settings"] == method.settings
    assert method.settings["noise"] == 0.4
    assert maps.model_id == folder
    maps.save(tmp_path / "saved")
