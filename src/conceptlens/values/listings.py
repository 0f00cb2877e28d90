"""Tables of what there is: methods, and transformer classes that are served. Read without importing what they list.

`assets/listings.json` is written by `benchmarks/models.py` out of the registries and the tests' tiny models; the tests
hold it against them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "assets" / "listings.json"


def methods() -> dict[str, dict[str, Any]]:
    """By name, sorted: `summary`, the fields of `MethodInfo`, and in `zoo` the small models that serve it."""
    return _stored()["methods"]


def datasets() -> dict[str, dict[str, str]]:
    """By name: `summary`, and in `needs` where the data come from and how they lie; generated ones need nothing."""
    return _stored()["datasets"]


def transformers() -> list[dict[str, Any]]:
    """Fields of the `Diagnosis` of each class on tiny weights, and `ok`; those with an adapter of their own first."""
    return _stored()["transformers"]


def tested(transformer: str) -> dict[str, Any] | None:
    """The entry of one class in `transformers`; None for a class that the tests do not examine."""
    return next((entry for entry in transformers() if entry["transformer"] == transformer), None)


def required_settings(transformer: str) -> dict[str, Any]:
    """Arguments without which a class cannot be built; empty for those whose defaults are enough."""
    return _stored()["required_settings"].get(transformer, {})


def versions() -> dict[str, str]:
    """Of conceptlens and of the packages below it when the classes were examined, by package."""
    return _stored()["versions"]


def _stored() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))
