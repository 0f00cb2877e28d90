"""What the package's listing says of each class: a dry run on its specimen, and what it takes to build the class."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from conceptlens.families import adapter_for
from conceptlens.readers.opening import quiet_loading
from conceptlens.readers.reading import record_call
from conceptlens.readers.selfcheck import own_text_errors
from conceptlens.values.recipe import Recipe
from specimens.random_models import Specimen


@torch.no_grad()
def dry_run(specimen: Specimen) -> dict[str, Any]:
    """Fields of a `Diagnosis`: how many blocks were seen, of how many, and how far the own text deviates."""
    build, call = specimen
    adapter = adapter_for(build())
    depth = len(adapter.blocks())
    with quiet_loading(progress=False):
        layers = record_call(adapter, call(1, 4, 6), Recipe().resolve(depth))
        error = max(own_text_errors(adapter, call(1, 4, 6)))
    return {"captured": len(layers), "expected": depth, "own_text_error": error}


def required_settings(specimen: Specimen) -> dict[str, Any]:
    """Settings of the specimen for what its class leaves open; empty where the class is built without arguments."""
    tiny = specimen[0]()
    try:
        with torch.device("meta"):
            type(tiny)()
    except TypeError:
        known = inspect.signature(type(tiny).__init__).parameters
        return {k: tiny.config[k] for k, setting in known.items() if setting.default is None and tiny.config.get(k)}
    return {}
