"""On a CUDA device: weights in four and eight bits of bitsandbytes, and pipelines that a device map has spread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import BitsAndBytesConfig, FluxPipeline, FluxTransformer2DModel

import conceptlens as cl

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device; run where there is one"),
    pytest.mark.filterwarnings("ignore:MatMul8bitLt"),  # bitsandbytes computes in float16 and says so
]
PROMPT, CONCEPTS = "a red house under the sun", ["house", "sun", "sky"]


def painted(pipeline: Any) -> Any:
    """Maps of the prompt, after a check that the picture is the plain pipeline's, bit for bit."""
    pipeline.set_progress_bar_config(disable=True)
    call: dict[str, Any] = {**cl.load(device="cpu").generate_defaults, "num_inference_steps": 2}
    plain = pipeline(PROMPT, generator=torch.Generator().manual_seed(0), **call).images[0]
    maps = cl.load(pipeline).generate(PROMPT, CONCEPTS, seed=0, keep=True, **call)
    assert np.array_equal(np.asarray(plain), np.asarray(maps.image))
    assert torch.isfinite(maps.scores).all()
    assert maps.parts is not None
    assert maps.recipe is not None
    assert maps.parts.shape[:2] == (2, len(maps.recipe.layers or ()))
    return maps


def demo_folder(folder: Path) -> Path:
    cl.load(device="cpu").pipeline.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_of_bitsandbytes_follow_the_plain_maps(bits: int, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    folder, half = demo_folder(tmp_path), torch.bfloat16
    plain = painted(FluxPipeline.from_pretrained(folder, dtype=half).to("cuda"))
    four: dict[str, Any] = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": half}
    eight: dict[str, Any] = {"load_in_8bit": True}
    config = BitsAndBytesConfig(**(four if bits == 4 else eight))
    transformer = FluxTransformer2DModel.from_pretrained(
        folder, subfolder="transformer", quantization_config=config, dtype=half
    )
    stored = painted(FluxPipeline.from_pretrained(folder, transformer=transformer, dtype=half).to("cuda"))
    assert F.cosine_similarity(plain.scores.flatten(), stored.scores.flatten(), dim=0) > 0.9


def test_a_pipeline_spread_by_a_device_map_gives_the_same_maps(tmp_path: Path) -> None:
    folder = demo_folder(tmp_path)
    plain = painted(FluxPipeline.from_pretrained(folder).to("cuda"))
    spread = painted(FluxPipeline.from_pretrained(folder, device_map="balanced"))
    torch.testing.assert_close(spread.scores, plain.scores, atol=1e-5, rtol=0)
