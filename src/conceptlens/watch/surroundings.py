"""What a process may have set for all of PyTorch, and what that must not change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from conceptlens.values.errors import ModelError
from conceptlens.values.models import Pipeline

_KINDS = ("cpu", "cuda")


@contextmanager
def usual_defaults() -> Iterator[None]:
    """Inside it new tensors are float32 and on the CPU, nothing is cast or differentiated, whatever was set before.

    For what is computed here; a pipeline's own call runs as its caller has set up the process.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for kind in _KINDS:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":  # a default device costs time at every operation
            stack.enter_context(torch.device("cpu"))
        torch.set_default_dtype(torch.float32)
        stack.callback(torch.set_default_dtype, dtype)
        yield


def execution_device(pipeline: Pipeline) -> torch.device:
    """Where the pipeline computes: under offload, not where its weights are."""
    return pipeline._execution_device  # noqa: SLF001 - pipelines have no public name for it


def check_surroundings(pipeline: Pipeline) -> None:
    """Refuses to paint where the process would have the pipeline mix precisions or devices. Raises `ModelError`."""
    if any(torch.is_autocast_enabled(kind) for kind in _KINDS):
        raise ModelError(
            "torch.autocast is on, so that text, image and concepts would be computed in different precisions. Leave "
            "its block, and open the model with dtype=torch.bfloat16 instead."
        )
    default, device = torch.get_default_device().type, execution_device(pipeline).type
    if default not in ("cpu", device):
        raise ModelError(
            f"torch's default device is {default}, the model is on {device}. Call torch.set_default_device(None) first."
        )
