"""Weights that are not plain tensors: int8 of torchao, GGUF files. (Those of bitsandbytes need a GPU: `tests/gpu`.)

The adapters call a block's modules and never read their weights, so whatever a layer computes with is what the concepts
go through. Random weights round worse than trained ones; the bars are for these.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import GGUFQuantizationConfig
from test_adapters import COLS, ROWS, adapter_for, concepts_like, full_recipe, hooks_left, live, session_of
from torch import Tensor, nn
from torchao.quantization import Int8Tensor, Int8WeightOnlyConfig, quantize_

from conceptlens.readers.reading import record_call
from specimens.families import flux_transformer
from tiny_models import FAMILIES, Family, flux_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers on Mochi, without a GPU
WIDE = {"attention_head_dim": 32, "axes_dims_rope": (8, 12, 12)}
"""A width of 64: GGUF stores rows in blocks of 32."""
PROMPT, CONCEPTS = "a red house", ["house", "sky", "boat"]


def int8(transformer: Any) -> Any:
    """Every linear layer's weight as int8 with one scale a row."""
    quantize_(transformer, Int8WeightOnlyConfig())
    layers = [part for part in transformer.modules() if isinstance(part, nn.Linear)]
    assert all(isinstance(layer.weight, Int8Tensor) for layer in layers)
    return transformer


def as_gguf(transformer: Any, folder: Path) -> Any:
    """The transformer out of a GGUF file: Q8_0 where rows divide into blocks of 32, else float32."""
    folder.mkdir(exist_ok=True)
    transformer.save_config(folder)
    writer = gguf.GGUFWriter(folder / "model.gguf", "flux")
    kinds = gguf.GGMLQuantizationType
    for name, weight in transformer.state_dict().items():
        values = weight.numpy()
        if values.ndim == 2 and values.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quantize(values, kinds.Q8_0), raw_dtype=kinds.Q8_0)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return (
        type(transformer)
        .from_single_file(
            str(folder / "model.gguf"),
            config=str(folder),
            quantization_config=GGUFQuantizationConfig(compute_dtype=torch.float32),
            dtype=torch.float32,
        )
        .eval()
    )


def maps_of(transformer: Any, call: dict[str, Any]) -> Tensor:
    adapter = adapter_for(transformer)
    with torch.no_grad():
        assert len(record_call(adapter, call, full_recipe(adapter))) == 4
        found = live(adapter, call, concepts_like(call), full_recipe(adapter))
    assert hooks_left(transformer) == []
    return found


def likeness(plain: Tensor, stored: Tensor) -> float:
    """Cosine of the maps after each position's mean over the concepts is taken off, which they share."""
    assert torch.isfinite(stored).all()
    assert not torch.equal(plain, stored)
    sides = [(maps - maps.mean(dim=1, keepdim=True)).flatten() for maps in (plain, stored)]
    return float(F.cosine_similarity(*sides, dim=0))


def painted_alike(pipeline: Any) -> None:
    """The picture is the plain pipeline's, bit for bit, and every block of every step was seen."""
    session = session_of(pipeline)
    call = {**session.generate_defaults, "num_inference_steps": 2}
    plain = pipeline(PROMPT, generator=torch.Generator().manual_seed(3), **call).images[0]
    maps = session.generate(PROMPT, CONCEPTS, seed=3, keep=True, **call)
    assert np.array_equal(np.asarray(plain), np.asarray(maps.image))
    assert maps.parts is not None
    assert maps.parts.shape[:2] == (2, 4)
    assert torch.isfinite(maps.scores).all()


def test_int8_weights_of_torchao_follow_the_plain_maps(family: Family) -> None:
    call = family.call(1, ROWS, COLS)
    assert likeness(maps_of(family.transformer(), call), maps_of(int8(family.transformer()), call)) > 0.98


@pytest.mark.parametrize("name", ["flux", "sd3.5-medium"])
def test_the_picture_of_int8_weights_is_bit_identical(name: str) -> None:
    pipeline = FAMILIES[name].pipeline()
    int8(pipeline.transformer)
    painted_alike(pipeline)


def test_a_transformer_out_of_a_gguf_file_follows_the_plain_maps(tmp_path: Path) -> None:
    plain = flux_transformer(**WIDE)
    call = FAMILIES["flux"].call(1, ROWS, COLS)
    stored = as_gguf(plain, tmp_path)
    assert stored.transformer_blocks[0].attn.add_k_proj.weight.dtype == torch.uint8
    assert likeness(maps_of(plain, call), maps_of(stored, call)) > 0.99


def test_the_picture_of_a_gguf_file_is_bit_identical(tmp_path: Path) -> None:
    pipeline = flux_pipeline(**WIDE)
    pipeline.transformer = as_gguf(pipeline.transformer, tmp_path)
    painted_alike(pipeline)
