"""Models from a folder or a hub id, with one clear line when that fails."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoProcessor

from conceptlens.readers.loading import device_of
from conceptlens.readers.opening import MODEL_FILE, opening
from conceptlens.values.models import Model, Processor


def model_type(source: str) -> str:
    """What the model's configuration calls its kind: "blip", "git", ..."""
    with opening(source, MODEL_FILE) as place:
        return str(AutoConfig.from_pretrained(place).model_type)


def load(source: str, kind: type[Any], device: str | torch.device | None) -> Model:
    """A frozen model of class `kind`: float16 on CUDA, float32 elsewhere.

    Raises:
        ModelError: when it cannot be loaded.
    """
    chosen = device_of(device)
    dtype = torch.float16 if chosen.type == "cuda" else torch.float32
    with opening(source, MODEL_FILE) as place:
        model = kind.from_pretrained(place, dtype=dtype)
    return model.eval().requires_grad_(False).to(chosen)


def load_processor(source: str, kind: type[Any] = AutoProcessor) -> Processor:
    """A model's own processor of images and texts; or its tokenizer or image processor, by `kind`."""
    with opening(source, MODEL_FILE) as place:
        return kind.from_pretrained(place)
