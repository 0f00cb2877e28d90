"""What differs between models: one file per family. Scores, maps and files do not belong here."""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import entry_points

from torch import nn

from conceptlens.adapters.base import ModelAdapter
from conceptlens.errors import ModelError

_registry: dict[str, type[ModelAdapter]] = {}


def register(adapter: type[ModelAdapter]) -> type[ModelAdapter]:
    """Class decorator: makes an adapter known for the transformer classes it names.

    Raises:
        ValueError: when another adapter already serves one of them.
    """
    for name in adapter.classes:
        known = _registry.get(name)
        if known is not None and known is not adapter:
            raise ValueError(f"{name} is already served by {known.__name__}")
        _registry[name] = adapter
    return adapter


def registered() -> dict[str, type[ModelAdapter]]:
    """All adapters by transformer class: the files of this folder, then entry points `conceptlens.adapters`."""
    for module in pkgutil.iter_modules(__path__):
        if module.name != "base" and not module.name.startswith("_"):
            importlib.import_module(f"{__name__}.{module.name}")
    for entry in entry_points(group="conceptlens.adapters"):
        register(entry.load())
    return dict(_registry)


def adapter_for(transformer: nn.Module) -> ModelAdapter:
    """The adapter that serves a transformer.

    Raises:
        ModelError: when no family knows its class.
    """
    transformer = getattr(transformer, "_orig_mod", transformer)  # what torch.compile wraps
    name = type(transformer).__name__
    known = registered()
    if name not in known:
        raise ModelError(
            f"no adapter for {name}. Supported: {', '.join(sorted(known))}. CONTRIBUTING.md tells how to add a family."
        )
    return known[name](transformer)
