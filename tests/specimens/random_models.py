"""What tiny random models are made of: the same for all classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Specimen = tuple[Callable[[], Any], Callable[[int, int, int], dict[str, Any]]]

TEXT, POOLED, LENGTH = 20, 12, 64
"""Widths of the text and of its pooled vector; the length to which pipelines pad a prompt."""


def randomize(module: nn.Module, scale: float = 0.15) -> Any:
    """Random weights everywhere, norms and biases included, so that no term can hide behind a zero or a one."""
    generator = torch.Generator().manual_seed(7)
    for weight in module.parameters():
        weight.data += scale * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return module.eval()


def text_rows(batch: int, width: int = TEXT, rows: int = 7) -> Tensor:
    return torch.randn(batch, rows, width, generator=torch.Generator().manual_seed(2))


def random_latents(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))
