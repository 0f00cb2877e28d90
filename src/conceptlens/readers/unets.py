"""A folder, a hub id or a pipeline: to a U-Net pipeline with cross-attention to CLIP text."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from conceptlens.readers.loading import (
    DEMO_UNET,
    Defaults,
    demo_folder,
    folder_defaults,
    is_demo,
    open_pipeline,
    pipeline_name,
)
from conceptlens.readers.opening import PIPELINE_FILE, opening, quiet_loading
from conceptlens.values.errors import ModelError

SUPPORTED = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")


@dataclass(frozen=True)
class LoadedUnet:
    """A pipeline with a `unet`, a `vae`, a scheduler of the diffusion (not flow) kind, its id, and its defaults."""

    pipeline: Any
    model_id: str
    defaults: Defaults = field(default_factory=Defaults)


def load_unet(
    model: Any,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    offload: bool = False,
    precise_vae: bool = True,
    single_stream: bool = False,
) -> LoadedUnet:
    """Loads, or adopts, a Stable Diffusion 1, 2 or XL pipeline.

    Args:
        model: a folder, a hub id, "demo-unet" (the embedded U-Net), or a loaded pipeline (used as it is; its device and
            dtype stay).
        device: "cuda", "cpu", ...; CUDA where there is one.
        dtype: float16 on CUDA, float32 elsewhere.
        offload: keep on the GPU only the part that runs (`enable_model_cpu_offload`).
        precise_vae: the VAE in float32, for reading images (SDXL's overflows); a painting pipeline takes care itself.
        single_stream: refused; a U-Net has no such blocks.

    Raises:
        ModelError: when it cannot be loaded or is another kind of pipeline.
    """
    if single_stream:
        raise ModelError("a U-Net has no single-stream blocks. Leave single_stream out.")
    if isinstance(model, DiffusionPipeline):
        _check_class(type(model).__name__, "this pipeline")
        return LoadedUnet(model, pipeline_name(model))

    def check(source: str, index: Any) -> None:
        _check_class(str(index.get("_class_name")), source)

    folder = _folder(model)
    found = open_pipeline(folder, check, device=device, dtype=dtype, offload=offload, half=torch.float16)
    if precise_vae and found.pipeline.vae.dtype == torch.float16:
        with quiet_loading(progress=False):
            found.pipeline.vae.to(dtype=torch.float32)
    name = found.model_id if folder is model else DEMO_UNET
    return LoadedUnet(found.pipeline, name, folder_defaults(found.folder))


def _folder(model: Any) -> Any:
    """The embedded U-Net's folder for its name, where no folder has it; else the model itself."""
    return demo_folder(DEMO_UNET) if model == DEMO_UNET and not Path(DEMO_UNET).is_dir() else model


def is_unet(model: Any) -> bool:
    """Whether a pipeline, folder or hub id is one that `load_unet` takes.

    Raises:
        ModelError: for a folder or hub id that cannot be opened.
    """
    if isinstance(model, DiffusionPipeline):
        return type(model).__name__ in SUPPORTED
    if is_demo(model) or not isinstance(model, (str, Path)):
        return False
    with opening(_folder(model), PIPELINE_FILE) as source:
        index: Any = DiffusionPipeline.load_config(source)
        return index.get("_class_name") in SUPPORTED


def _check_class(name: str, source: str) -> None:
    if name not in SUPPORTED:
        raise ModelError(f"{source} is a {name}; a U-Net with text is needed. Use a {' or a '.join(SUPPORTED)}.")
