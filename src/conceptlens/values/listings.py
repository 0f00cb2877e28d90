"""Tables of what there is: methods, and transformer classes that are served. Read without importing what they list.

`assets/listings.json` is written by `benchmarks/models.py` out of the registries; the tests hold it against them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "assets" / "listings.json"


def methods() -> dict[str, dict[str, Any]]:
    """By name, sorted: `summary` and the fields of `MethodInfo`."""
    return json.loads(FILE.read_text(encoding="utf-8"))["methods"]


def transformers() -> list[dict[str, Any]]:
    """Fields of the `Diagnosis` of each class on tiny weights, and `ok`; those with an adapter of their own first."""
    return json.loads(FILE.read_text(encoding="utf-8"))["transformers"]
