"""bfloat16 is used on a processor only where a trial finds it fast."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from conceptlens.ops import precision


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    precision.cpu_dtype.cache_clear()
    yield
    precision.cpu_dtype.cache_clear()


@pytest.mark.parametrize(("slow", "fast"), [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
def test_the_faster_format_is_taken(monkeypatch: pytest.MonkeyPatch, slow: torch.dtype, fast: torch.dtype) -> None:
    product, seen = torch.mm, []

    def slowed(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        seen.append(one.dtype)
        time.sleep(0.02 if one.dtype == slow else 0)
        return product(one, other)

    monkeypatch.setattr(torch, "mm", slowed)
    assert precision.cpu_dtype() == fast
    assert precision.cpu_dtype() == fast
    assert len(seen) == 2 * 3  # asked once
