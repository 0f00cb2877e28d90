"""How the tiny pipelines of cross attention are asked to paint."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.transformers import transformer_cosmos
from diffusers.pipelines.helios import pipeline_helios
from diffusers.pipelines.prx import pipeline_prx
from diffusers.pipelines.skyreels_v2 import pipeline_skyreels_v2
from diffusers.pipelines.wan import pipeline_wan_vace
from torch import Tensor

from conceptlens.readers.cross import CrossReader

PROMPT = "a red house"
SMALL = ("pixart", "pixart-alpha", "latte", "wan", "sky-reels", "wan-vace", "helios", "allegro", "cosmos")
PAINTED = {
    **dict.fromkeys((*SMALL, "any-flow", "any-flow-far"), (32, 48)),
    **dict.fromkeys(("sana", "hunyuan-dit", "sana-video", "lumina-next"), (64, 96)),
    **dict.fromkeys(("kandinsky-5", "kandinsky-5-image", "kandinsky-6"), (64, 96)),
    **dict.fromkeys(("prx", "nucleus"), (64, 96)),
    **dict.fromkeys(("ltx", "ltx-2"), (256, 192)),
}
"""(width, height) in pixels: not square, and with tokens to tell apart."""
PAINTING: dict[str, dict[str, Any]] = {
    **{name: {"use_resolution_binning": False} for name in ("pixart", "pixart-alpha", "sana", "hunyuan-dit", "prx")},
    **{name: {"num_frames": 1} for name in ("wan", "sky-reels", "ltx", "wan-vace", "any-flow", "kandinsky-5")},
    "any-flow-far": {"num_frames": 1, "chunk_partition": [1]},
    "latte": {"video_length": 1},
    "sana-video": {"frames": 1, "use_resolution_binning": False},
    "lumina-next": {"clean_caption": False},
    "kandinsky-5-image": {},
    "cosmos": {},
    "nucleus": {},
    "allegro": {"num_frames": 1, "clean_caption": False},
    "kandinsky-6": {"num_frames": 1, "sample_audio": False},
    "helios": {"num_frames": 1, "num_latent_frames_per_chunk": 1},
    "ltx-2": {
        "num_frames": 1,
        "stg_scale": 0.0,
        "audio_stg_scale": 0.0,
        "modality_scale": 1.0,
        "audio_modality_scale": 1.0,
    },
}
"""What a pipeline is asked besides size, steps and guidance."""
NEED_FTFY = (pipeline_skyreels_v2, pipeline_wan_vace, pipeline_helios, pipeline_prx)


@contextmanager
def without_some_packages() -> Iterator[None]:
    """Some pipelines need ftfy, and Cosmos torchvision, for one function each, which the tests do without."""
    letters = SimpleNamespace(fix_text=lambda text: text)
    resized = SimpleNamespace(resize=lambda mask, size, interpolation: F.interpolate(mask, size, mode=interpolation))
    with pytest.MonkeyPatch.context() as patch:
        for module in NEED_FTFY:
            patch.setattr(module, "ftfy", letters, raising=False)
        modes = SimpleNamespace(NEAREST="nearest")
        vision = SimpleNamespace(functional=resized, InterpolationMode=modes)
        patch.setattr(transformer_cosmos, "transforms", vision, raising=False)
        yield


def painted(model: CrossReader, family: str, **more: Any) -> Tensor:
    """The latents of two guided steps."""
    width, height = PAINTED[family]
    generator = torch.Generator("cpu").manual_seed(0)
    call: dict[str, Any] = {"generator": generator, **PAINTING[family], "output_type": "latent", **more}
    call |= {"width": width, "height": height, "num_inference_steps": 2, "guidance_scale": 3.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # diffusers hands tensors to NumPy
        return model.pipeline(prompt=PROMPT, return_dict=False, **call)[0]
