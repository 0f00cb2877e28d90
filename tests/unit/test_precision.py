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


@pytest.mark.parametrize(
    ("slow", "taken"), [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16), (None, torch.bfloat16)]
)
def test_a_slow_format_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, slow: torch.dtype | None, taken: torch.dtype
) -> None:
    """Also not by chance: both take a millisecond at least, so that only the slow one is far behind."""
    product, seen = torch.mm, []

    def slowed(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        seen.append(one.dtype)
        time.sleep(0.02 if one.dtype == slow else 0.001)
        return product(one, other)

    monkeypatch.setattr(torch, "mm", slowed)
    assert precision.cpu_dtype() == taken
    turns = len(seen)
    assert precision.cpu_dtype() == taken
    assert len(seen) == turns  # asked once
