"""Numbers that the official code computed on tiny random weights (`tests/reference`), reproduced at 1e-5."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    CogVideoXTransformer3DModel,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
)
from diffusers.models.embeddings import apply_rotary_emb
from safetensors.torch import load_file
from test_adapters import adapter_for
from torch import Tensor

from conceptlens.families.base import Concepts, DiTAdapter
from conceptlens.readers.stream import ConceptProbe, ConceptStream, StepVectors
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import StreamLayer, TokenGrid
from conceptlens.watch.recorder import Recorder
from specimens.families import cogvideox_5b_call, cogvideox_5b_transformer

REFERENCE = Path(__file__).parents[1] / "reference"
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}


def from_seed(kind: Any, folder: Path) -> DiTAdapter:
    """The model that the official code was given: its weights are drawn one after the other, in the order of names.

    The numbers beside it were computed from exactly these weights, so a draw that differs fails every comparison.
    """
    model = kind.from_config(kind.load_config(folder / "transformer"))
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            weight.data = torch.randn(weight.shape) * 0.7 / sqrt(weight[0].numel())
        else:
            is_gain = "norm" in name and name.endswith(".weight")
            weight.data = torch.randn(weight.shape) * 0.2 + (1.0 if is_gain else 0.0)
    return adapter_for(model.eval())


def trace(
    adapter: DiTAdapter, concepts: Concepts, call: dict[str, Tensor], recipe: Recipe
) -> tuple[list[StepVectors], list[StreamLayer], Tensor, Tensor]:
    stream, probe = ConceptStream(adapter, concepts, recipe), ConceptProbe(adapter, concepts, recipe)
    vectors: list[StepVectors] = []
    records: list[StreamLayer] = []

    def follow(block: Any, record: StreamLayer) -> None:
        vectors.append(stream.step(block, record))
        records.append(record)
        probe(block, record)

    depth = len(adapter.blocks())
    with torch.no_grad(), Recorder(adapter, follow, last=depth - 1, outputs=frozenset(range(depth)), queries=True):
        sample = adapter.transformer(**call, return_dict=False)[0]
    return vectors, records, probe.scores.mean(), sample


def flux() -> tuple[DiTAdapter, Concepts, dict[str, Tensor], dict[str, Tensor]]:
    folder = REFERENCE / "flux-schnell-tiny"
    adapter = adapter_for(FluxTransformer2DModel.from_pretrained(folder, subfolder="transformer").eval())
    given, expected = load_file(folder / "inputs.safetensors"), load_file(folder / "expected.safetensors")
    call = {
        "hidden_states": given["img"],
        "encoder_hidden_states": given["txt"],
        "pooled_projections": given["y"],
        "timestep": given["timesteps"],
        "img_ids": given["img_ids"],
        "txt_ids": given["txt_ids"],
    }
    return adapter, Concepts(tuple("abcd"), given["concepts"][0], given["concept_vec"][0]), call, expected


@pytest.mark.parametrize(("name", "cross", "self_"), [("both", 1, 1), ("ca", 1, 0), ("sa", 0, 1), ("none", 0, 0)])
def test_flux_vectors_in_the_four_ablations(name: str, cross: int, self_: int) -> None:
    adapter, concepts, call, expected = flux()
    recipe = Recipe(cross_attention=bool(cross), self_attention=bool(self_)).resolve(4)
    vectors, records, _, sample = trace(adapter, concepts, call, recipe)
    torch.testing.assert_close(sample, expected["sample"], **CLOSE)
    torch.testing.assert_close(torch.stack([v.out[0] for v in vectors]), expected[f"{name}.concept_out"], **CLOSE)
    outs = [r.out[0] for r in records if r.out is not None]
    torch.testing.assert_close(torch.stack(outs), expected["image_out"], **CLOSE)
    queries = [r.query[0] for r in records if r.query is not None]
    torch.testing.assert_close(torch.stack(queries), expected["image_q"], **CLOSE)
    if name == "both":
        made = torch.stack([v.projection.query[0] for v in vectors])
        torch.testing.assert_close(made, expected["both.concept_q"], **CLOSE)


def test_flux_scores_and_heatmaps() -> None:
    adapter, concepts, call, expected = flux()
    for layer in range(4):
        *_, raw, _ = trace(adapter, concepts, call, Recipe(layers=(layer,), softmax=False))
        torch.testing.assert_close(raw[0], expected["scores"][layer], rtol=1e-5, atol=1e-4)
    *_, mean, _ = trace(adapter, concepts, call, Recipe(layers=(2, 3)))
    torch.testing.assert_close(mean[0].unflatten(1, (6, 8)), expected["heatmaps"], **CLOSE)


def test_flux_cross_attention_of_the_official_pipeline() -> None:
    """It compares concept queries with image queries, all heads side by side."""
    adapter, concepts, call, expected = flux()
    queries = Recipe(space="cross", cross_pair="query-query", cross_heads="sum", softmax=False)
    for layer in range(4):
        *_, raw, _ = trace(adapter, concepts, call, replace(queries, layers=(layer,)))
        sides = expected["both.concept_q"][layer], expected["image_q"][layer]
        torch.testing.assert_close(raw[0], torch.einsum("hcd,hpd->cp", *sides), rtol=1e-5, atol=1e-4)


def test_sd3_with_the_quirks_of_the_official_code() -> None:
    """BOS row carried and dropped, unit-length concepts, image vectors of the concept pass."""
    folder = REFERENCE / "sd3-tiny"
    adapter = from_seed(SD3Transformer2DModel, folder)
    given, expected = load_file(folder / "inputs.safetensors"), load_file(folder / "expected.safetensors")
    concepts = Concepts(tuple("abcd"), given.pop("concept_hidden_states")[0], None, extra=1)
    recipe = adapter.paper_recipe(4).resolve(4)
    vectors, _, mean, sample = trace(adapter, concepts, given, recipe)
    torch.testing.assert_close(sample, expected["sample"], **CLOSE)
    torch.testing.assert_close(torch.stack([v.out[0] for v in vectors]), expected["concept_out"], **CLOSE)
    torch.testing.assert_close(mean[0].unflatten(1, (6, 8)), expected["heatmaps"], **CLOSE)


def test_sd3_cross_attention_is_that_of_the_prompts_own_tokens() -> None:
    folder = REFERENCE / "sd3-tiny"
    adapter = from_seed(SD3Transformer2DModel, folder)
    given, expected = load_file(folder / "inputs.safetensors"), load_file(folder / "expected.safetensors")
    del given["concept_hidden_states"]
    prompt = Concepts(tuple("abcdefghij"), given["encoder_hidden_states"][0], None)
    for layer in range(4):
        *_, raw, _ = trace(adapter, prompt, given, Recipe(layers=(layer,), space="cross", softmax=False))
        torch.testing.assert_close(raw[0], expected["cross_attention"][layer], rtol=1e-5, atol=1e-4)


def test_flux2_vectors_and_scores() -> None:
    """Text rotated by its position; the official code puts every concept at one place near the end of the text."""
    folder = REFERENCE / "flux2-tiny"
    adapter = adapter_for(Flux2Transformer2DModel.from_pretrained(folder, subfolder="transformer").eval())
    given, expected = load_file(folder / "inputs.safetensors"), load_file(folder / "expected.safetensors")
    places = tuple(given["concept_ids"][:, -1].long().tolist())
    concepts = Concepts(tuple("abcd"), given["concepts"][0], None, positions=places)
    names = {"hidden_states": "img", "encoder_hidden_states": "txt", "timestep": "timesteps"}
    call = {name: given[names.get(name, name)] for name in (*names, "guidance", "img_ids", "txt_ids")}
    vectors, records, _, sample = trace(adapter, concepts, call, Recipe().resolve(3))
    torch.testing.assert_close(sample, expected["sample"], **CLOSE)
    torch.testing.assert_close(torch.stack([v.out[0] for v in vectors]), expected["concept_out"], **CLOSE)
    outs = [r.out[0] for r in records if r.out is not None]
    torch.testing.assert_close(torch.stack(outs), expected["image_out"], **CLOSE)
    paper = replace(adapter.paper_recipe(3), softmax=False)
    for layer in range(3):
        *_, raw, _ = trace(adapter, concepts, call, replace(paper, layers=(layer,)))
        torch.testing.assert_close(raw[0], expected["scores"][layer], rtol=1e-5, atol=1e-4)
        *_, raw, _ = trace(adapter, concepts, call, replace(paper, layers=(layer,), space="cross"))
        torch.testing.assert_close(raw[0], expected["cross_attention"][layer], rtol=1e-5, atol=1e-4)
    warm = replace(adapter.paper_recipe(3), temperature=10.0)  # at 1000 all maps of random weights are alike
    for space, figures in (("output", "scores"), ("cross", "cross_attention")):
        *_, heatmaps, _ = trace(adapter, concepts, call, replace(warm, space=space))
        torch.testing.assert_close(heatmaps[0], (expected[figures].mean(0) / 10).softmax(dim=0), **CLOSE)


def test_cogvideox_with_the_zero_rows_of_the_official_code() -> None:
    """Four concepts and six zero rows that take part in their attention; three latent frames, no rotation."""
    folder = REFERENCE / "cogvideox-2b-tiny"
    adapter = from_seed(CogVideoXTransformer3DModel, folder)
    given, expected = load_file(folder / "inputs.safetensors"), load_file(folder / "expected.safetensors")
    rows = given.pop("concept_hidden_states")[0]
    order = [*range(4, 10), *range(4)]  # ours has rows that belong to no concept in front
    concepts = Concepts(tuple("abcd"), rows[order], None, extra=6)
    recipe = adapter.paper_recipe(4).resolve(4)
    vectors, records, mean, sample = trace(adapter, concepts, given, recipe)
    torch.testing.assert_close(sample, expected["sample"], **CLOSE)
    torch.testing.assert_close(torch.stack([v.out[0] for v in vectors]), expected["concept_out"][:, order], **CLOSE)
    outs = [r.out[0] for r in records if r.out is not None]
    torch.testing.assert_close(torch.stack(outs), expected["image_out"], **CLOSE)
    assert records[0].call.grid == TokenGrid(3, 4, frames=3)
    torch.testing.assert_close(mean[0], expected["scores"][:, :4].mean(0), rtol=1e-5, atol=1e-4)
    for layer in range(4):
        *_, raw, _ = trace(adapter, concepts, given, replace(recipe, layers=(layer,), space="cross"))
        torch.testing.assert_close(raw[0], expected["cross_attention"][layer, :4], rtol=1e-5, atol=1e-4)


def test_cogvideox_cross_attention_takes_image_queries_after_rotation() -> None:
    """The official code rotates queries in place before it compares them, which shows on models that rotate (5B)."""
    model, call = cogvideox_5b_transformer(), cogvideox_5b_call(1, 3, 4)
    adapter = adapter_for(model.eval())
    concepts = Concepts(tuple("abc"), call["encoder_hidden_states"][0, :3], None)
    recipe = replace(adapter.paper_recipe(1), layers=(0,), space="cross")
    tapped: list[Tensor] = []
    first: Any = adapter.blocks()[0]
    handle = first.attn1.norm_q.register_forward_hook(lambda module, args, out: tapped.append(out.clone()))
    vectors, _, raw, _ = trace(adapter, concepts, call, recipe)
    handle.remove()
    length = call["encoder_hidden_states"].shape[1]
    rotated: Any = apply_rotary_emb(tapped[0][:, :, length:], call["image_rotary_emb"])
    expected = torch.einsum("bhcd,bhpd->bcp", vectors[0].projection.key, rotated) / rotated.shape[1]
    torch.testing.assert_close(raw, expected, **CLOSE)
    *_, before, _ = trace(adapter, concepts, call, replace(recipe, cross_rotated="concepts"))
    assert (before - raw).abs().max() > 0.01
