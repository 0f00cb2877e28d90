"""Seeds and shared, read-only fixtures."""

from __future__ import annotations

import os

os.environ["CONCEPTLENS_HOME"] = os.devnull  # what a user has saved of a model is no part of a test
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before the hub's library is imported; `-m hub` runs set it to 0
if "PYTEST_XDIST_WORKER" in os.environ:  # one thread each; before torch is imported, and for processes that tests start
    os.environ["OMP_NUM_THREADS"] = "1"

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
