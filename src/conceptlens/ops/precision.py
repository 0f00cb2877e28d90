"""Which number format a processor computes fast in: measured, since no flag of it says so."""

from __future__ import annotations

import time
from functools import cache

import torch

_SIDE, _TURNS = 128, 10


@cache
def cpu_dtype() -> torch.dtype:
    """bfloat16, but float32 where this processor multiplies matrices three times faster in that, or more.

    A processor without bfloat16 arithmetic can be a hundred times slower in it; on others the two are close together,
    and noise does not decide between them. The trial takes about thirty milliseconds there, and less elsewhere.
    """
    return torch.float32 if _seconds(torch.bfloat16) > 3 * _seconds(torch.float32) else torch.bfloat16


def _seconds(dtype: torch.dtype) -> float:
    """The least time of a few products of square matrices, after a warm-up."""
    matrix, times = torch.ones(_SIDE, _SIDE, dtype=dtype), []
    for _ in range(_TURNS):
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        times.append(time.perf_counter() - started)
    return min(times[1:])
