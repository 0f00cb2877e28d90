"""Numbers that the official code computed on tiny random weights (`tests/reference`), reproduced at 1e-5."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import (
    CogVideoXTransformer3DModel,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
)
from safetensors.torch import load_file
from torch import Tensor

from conceptlens.adapters import adapter_for
from conceptlens.adapters.base import Concepts, DiTAdapter
from conceptlens.engine.recorder import Recorder
from conceptlens.engine.stream import ConceptProbe, ConceptStream, StepVectors
from conceptlens.recipe import Recipe
from conceptlens.records import LayerRecord, TokenGrid

REFERENCE = Path(__file__).parents[1] / "reference"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def trace(
    adapter: DiTAdapter, concepts: Concepts, call: dict[str, Tensor], recipe: Recipe
) -> tuple[list[StepVectors], list[LayerRecord], Tensor, Tensor]:
    stream, probe = ConceptStream(adapter, concepts, recipe), ConceptProbe(adapter, concepts, recipe)
    vectors: list[StepVectors] = []
    records: list[LayerRecord] = []

    def follow(block: torch.nn.Module, record: LayerRecord) -> None:
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


def test_sd3_with_the_quirks_of_the_official_code() -> None:
    """BOS row carried and dropped, unit-length concepts, image vectors of the concept pass."""
    folder = REFERENCE / "sd3-tiny"
    adapter = adapter_for(SD3Transformer2DModel.from_pretrained(folder, subfolder="transformer").eval())
    given, expected = load_file(folder / "inputs.safetensors"), load_file(folder / "expected.safetensors")
    concepts = Concepts(tuple("abcd"), given.pop("concept_hidden_states")[0], None, extra=1)
    recipe = adapter.paper_recipe(4).resolve(4)
    vectors, _, mean, sample = trace(adapter, concepts, given, recipe)
    torch.testing.assert_close(sample, expected["sample"], **CLOSE)
    torch.testing.assert_close(torch.stack([v.out[0] for v in vectors]), expected["concept_out"], **CLOSE)
    torch.testing.assert_close(mean[0].unflatten(1, (6, 8)), expected["heatmaps"], **CLOSE)


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
    for layer in range(3):
        *_, raw, _ = trace(adapter, concepts, call, Recipe(layers=(layer,), softmax=False))
        torch.testing.assert_close(raw[0], expected["scores"][layer], rtol=1e-5, atol=1e-4)


def test_cogvideox_with_the_zero_rows_of_the_official_code() -> None:
    """Four concepts and six zero rows that take part in their attention; three latent frames, no rotation."""
    folder = REFERENCE / "cogvideox-2b-tiny"
    adapter = adapter_for(CogVideoXTransformer3DModel.from_pretrained(folder, subfolder="transformer").eval())
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
