"""Figures of a benchmark in its JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def store(path: Path, results: Mapping[str, Any]) -> None:
    """Writes them aside and renames, so that a benchmark that is stopped leaves the file whole."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    part.rename(path)
