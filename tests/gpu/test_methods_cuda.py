"""On a CUDA device: methods with a model of their own give the maps they give on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conceptlens.methods import method_named
from tiny_methods import METHODS_TINY

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device; run where there is one"),
]


@pytest.mark.parametrize("name", METHODS_TINY)
def test_maps_follow_the_cpu(name: str, tmp_path: Path) -> None:
    model, options = METHODS_TINY[name](tmp_path)
    random = np.random.default_rng(3).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(random).resize((40, 32), Image.Resampling.BICUBIC)
    there, here = (
        method_named(name).load(model, device=device, **options).explain(picture, ["house", "tree"]).scores
        for device in ("cuda", "cpu")
    )
    # relevance is badly conditioned: small denominators enlarge the rounding of single products
    torch.testing.assert_close(there, here, rtol=0, atol=1e-2 * float(here.abs().max()))
