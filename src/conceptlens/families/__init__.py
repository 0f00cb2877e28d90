"""What differs between models: one file per family. Scores, maps and files do not belong here."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TypeVar

from torch import nn

from conceptlens.families.base import ModelAdapter
from conceptlens.values.errors import ModelError
from conceptlens.values.registry import Registry

Kind = TypeVar("Kind", bound=ModelAdapter)

_registry: Registry[ModelAdapter] = Registry(__name__, "adapter", ModelError)


def register(adapter: type[Kind]) -> type[Kind]:
    """Class decorator: makes an adapter known for the transformer classes it names.

    Raises:
        ValueError: when another adapter already serves one of them.
    """
    for name in adapter.classes:
        _registry.add(name, adapter)
    return adapter


def registered() -> dict[str, type[ModelAdapter]]:
    """All adapters by transformer class: the files of this folder, and entry points `conceptlens.families`."""
    _registry.all()  # first, so that of two for one class it is the one from outside that is refused
    for entry in entry_points(group="conceptlens.families"):
        register(entry.load())
    return _registry.all()


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
