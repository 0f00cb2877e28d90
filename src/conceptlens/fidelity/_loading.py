"""Models from a folder or a hub id, with one clear line when that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoProcessor

from conceptlens.engine.loading import LOADING_ERRORS, device_of, quiet_loading
from conceptlens.errors import ModelError, one_line


def model_type(source: str) -> str:
    """What the model's configuration calls its kind: "blip", "git", ..."""
    return str(_loaded(source, lambda: AutoConfig.from_pretrained(source)).model_type)


def load(source: str, kind: Any, device: str | torch.device | None) -> Any:
    """A frozen model of class `kind`: float16 on CUDA, float32 elsewhere.

    Raises:
        ModelError: when it cannot be loaded.
    """
    chosen = device_of(device)
    dtype = torch.float16 if chosen.type == "cuda" else torch.float32
    model = _loaded(source, lambda: kind.from_pretrained(source, dtype=dtype))
    return model.eval().requires_grad_(False).to(chosen)


def load_processor(source: str, kind: Any = AutoProcessor) -> Any:
    """A model's own processor of images and texts; or its tokenizer or image processor, by `kind`."""
    return _loaded(source, lambda: kind.from_pretrained(source))


def _loaded(source: str, how: Any) -> Any:
    try:
        with quiet_loading(progress=not Path(source).is_dir()):
            return how()
    except LOADING_ERRORS as error:
        raise ModelError(
            f"cannot load {source!r}: {one_line(error)}. Give a folder, or a hub id that you have access to."
        ) from error
