"""A folder, a hub id or a pipeline: to a U-Net pipeline with cross-attention to CLIP text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from conceptlens.engine.loading import LOADING_ERRORS, device_of, quiet_loading
from conceptlens.errors import ModelError, one_line

SUPPORTED = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")


@dataclass(frozen=True)
class LoadedUnet:
    """A pipeline with a `unet`, a `vae`, a scheduler of the diffusion (not flow) kind, and its id."""

    pipeline: Any
    model_id: str


def load_unet(model: Any, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> LoadedUnet:
    """Loads, or adopts, a Stable Diffusion 1, 2 or XL pipeline.

    Args:
        model: a folder, a hub id, or a loaded pipeline (used as it is; its device and dtype stay).
        device: "cuda", "cpu", ...; CUDA where there is one.
        dtype: float16 on CUDA (the VAE in float32: SDXL's overflows), float32 elsewhere.

    Raises:
        ModelError: when it cannot be loaded or is another kind of pipeline.
    """
    if isinstance(model, DiffusionPipeline):
        _check_class(type(model).__name__, "this pipeline")
        return LoadedUnet(model, getattr(model.config, "_name_or_path", "") or type(model).__name__)
    folder = Path(model)
    local = folder.is_dir()
    if local and not (folder / "model_index.json").exists():
        raise ModelError(
            f"{folder} is no diffusers pipeline: it has no model_index.json. Name the folder that has one."
        )
    chosen = device_of(device)
    dtype = dtype or (torch.float16 if chosen.type == "cuda" else torch.float32)
    source = str(folder if local else model)
    try:
        with quiet_loading(progress=not local):
            index: Any = DiffusionPipeline.load_config(source)
            _check_class(str(index.get("_class_name")), source)
            pipeline = DiffusionPipeline.from_pretrained(source, dtype=dtype)
    except ModelError:
        raise
    except LOADING_ERRORS as error:
        where = f"folder {folder}" if local else f"model {str(model)!r} (no such folder, so a hub id)"
        raise ModelError(
            f"cannot load {where}: {one_line(error)}. Give a diffusers folder, or a hub id that you have access to."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(chosen)
    if dtype == torch.float16:
        with quiet_loading(progress=False):
            pipeline.vae.to(dtype=torch.float32)
    return LoadedUnet(pipeline, str(folder.resolve() if local else model))


def _check_class(name: str, source: str) -> None:
    if name not in SUPPORTED:
        raise ModelError(f"{source} is a {name}; a U-Net with text is needed. Use a {' or a '.join(SUPPORTED)}.")
