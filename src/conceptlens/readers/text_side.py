"""The text encoders and tokenizers of a pipeline, without the parts that paint."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import DiffusionPipeline
from torch import nn

from conceptlens.readers.loading import device_of
from conceptlens.readers.opening import PIPELINE_FILE, opening
from conceptlens.readers.weights import check_tokenizers
from conceptlens.values.errors import ModelError
from conceptlens.values.models import Pipeline

_MOST_TEXTS = 32
"""Texts of each encoder that `encoded_once` remembers."""
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


@contextmanager
def encoded_once(pipeline: Pipeline) -> Iterator[None]:
    """Inside it each text encoder runs once for a text: later it gives what it gave before.

    The texts of the last calls are remembered, since the states of a large encoder take megabytes.
    """
    names = [name for name in pipeline.components if name.startswith("text_encoder")]
    encoders = [encoder for name in names if isinstance(encoder := getattr(pipeline, name, None), nn.Module)]
    replaced: list[tuple[nn.Module, Any, Any]] = []
    for encoder in encoders:
        before = vars(encoder).get("forward")
        if hasattr(encoder, "_orig_mod") or isinstance(before, _Remembered):  # compiled, or remembering already
            continue
        encoder.forward = _Remembered(encoder.forward)  # type: ignore[method-assign]
        replaced.append((encoder, before, encoder.forward))
    try:
        yield
    finally:
        for encoder, before, ours in replaced:
            if vars(encoder).get("forward") is not ours:  # offloading puts its own in place whenever a call ends
                continue
            if before is None:
                del encoder.forward
            else:
                encoder.forward = before


class _Remembered:
    """A forward that answers from memory what it was asked before."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward
        self._answers: dict[Any, Any] = {}
        functools.update_wrapper(self, forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever the encoder gives
        key = tuple(_key(value) for value in (*args, *sorted(kwargs.items())))
        if key not in self._answers:
            if len(self._answers) >= _MOST_TEXTS:
                del self._answers[next(iter(self._answers))]
            self._answers[key] = self._forward(*args, **kwargs)
        return self._answers[key]


def _key(value: object) -> Hashable:
    """What makes an argument of a forward differ from another; an unknown object equals nothing else."""
    if isinstance(value, torch.Tensor):
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return value.dtype, str(value.device), tuple(value.shape), content.numpy().tobytes()
    if isinstance(value, (tuple, list)):
        return tuple(_key(part) for part in value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else object()
