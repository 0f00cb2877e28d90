"""The text encoders and tokenizers of a pipeline, without the parts that paint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import DiffusionPipeline

from conceptlens.readers.loading import device_of
from conceptlens.readers.opening import PIPELINE_FILE, opening
from conceptlens.readers.weights import check_tokenizers
from conceptlens.values.errors import ModelError
from conceptlens.values.models import Pipeline

_KEPT = ("text_encoder", "tokenizer", "scheduler")


def load_text_side(model: str | Path, *, device: str | torch.device | None = None) -> Pipeline:
    """A pipeline of any family that can encode prompts and nothing else; the other weights are not even fetched.

    Args:
        model: a folder or a hub id.
        device: "cuda", "cpu", ...; CUDA where there is one. bfloat16 on CUDA, float32 elsewhere.

    Raises:
        ModelError: when it cannot be loaded, or has no text encoder.
    """
    chosen = device_of(device)
    dtype = torch.bfloat16 if chosen.type == "cuda" else torch.float32
    with opening(model, PIPELINE_FILE, part="the text encoders") as source:
        index: Any = DiffusionPipeline.load_config(source)
        parts = [name for name, value in index.items() if isinstance(value, (list, tuple)) and name[0] != "_"]
        dropped: dict[str, Any] = {name: None for name in parts if not name.startswith(_KEPT)}
        pipeline = cast("Pipeline", DiffusionPipeline.from_pretrained(source, dtype=dtype, **dropped))
        check_tokenizers(pipeline)
    if not any(name.startswith("text_encoder") and index[name][0] for name in parts):
        raise ModelError(f"{model} ({index.get('_class_name')}) has no text encoder. Use a text-to-image pipeline.")
    pipeline.to(chosen)
    return pipeline


def missing_encoders(pipeline: Pipeline) -> list[str]:
    """The text encoders that a pipeline of this class may have, and this one lacks."""
    names = [name for name in pipeline.config if name.startswith("text_encoder")]
    return [name for name in names if getattr(pipeline, name, None) is None]


@contextmanager
def text_encoders(pipeline: Pipeline) -> Iterator[None]:
    """Inside it texts are encoded.

    Raises:
        ModelError: when that fails and a text encoder was freed.
    """
    try:
        yield
    except (TypeError, AttributeError) as error:
        missing = missing_encoders(pipeline)
        if "NoneType" not in str(error) or not missing:
            raise
        raise ModelError(
            f"this {type(pipeline).__name__} has no {', '.join(missing)}, so words cannot be read. Load it with its "
            "text encoders, or ask for the same concepts once before they are freed."
        ) from error
