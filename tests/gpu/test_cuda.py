"""On a CUDA device: the same promises in half precision and under offload."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import conceptlens as cl

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device; run where there is one"),
]
CALL: dict[str, Any] = {"num_inference_steps": 4}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("offload", [False, True])
def test_the_image_is_bit_identical_and_maps_follow_the_cpu(dtype: torch.dtype, offload: bool) -> None:
    session = cl.load(device="cuda", dtype=dtype, offload=offload)
    prompt, concepts = "a red house under the sun", ["house", "sun", "sky"]
    call: dict[str, Any] = {**session.generate_defaults, **CALL}
    plain = session.pipeline(prompt, generator=torch.Generator().manual_seed(0), **call).images[0]
    maps = session.generate(prompt, concepts, seed=0, **CALL)
    assert np.array_equal(np.asarray(plain), np.asarray(maps.image))
    record = session.read(maps.image)
    probed, again = (session.probe(record.to(place), concepts) for place in ("cuda", "cpu"))
    assert torch.equal(probed.scores, again.scores)
    exact = cl.load(device="cpu").generate(prompt, concepts, seed=0, **CALL)
    tolerance = 1e-3 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(maps.scores, exact.scores, atol=tolerance, rtol=0)
