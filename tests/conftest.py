"""Seeds and shared, read-only fixtures."""

from __future__ import annotations

import pytest
import torch

import conceptlens as cl
from conceptlens.session import Session
from tiny_models import FAMILIES, Family


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def demo() -> Session:
    """The embedded model. Do not change it."""
    return cl.load(device="cpu")


@pytest.fixture(params=FAMILIES, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]
