"""Ways to say where a concept is, one file each, behind one interface. Scores and datasets do not belong here."""

from __future__ import annotations

import importlib
import pkgutil

from conceptlens.errors import ConceptlensError
from conceptlens.methods.base import SaliencyMethod

_registry: dict[str, type[SaliencyMethod]] = {}


class UnknownMethodError(ConceptlensError, ValueError):
    """No method has this name."""


def register(method: type[SaliencyMethod]) -> type[SaliencyMethod]:
    """Class decorator: makes a method known by its `name`."""
    if _registry.setdefault(method.name, method) is not method:
        raise ValueError(f"there are two methods named {method.name}")
    return method


def registered() -> dict[str, type[SaliencyMethod]]:
    """All methods by name: the files of this folder."""
    for module in pkgutil.iter_modules(__path__):
        if module.name != "base" and not module.name.startswith("_"):
            importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(_registry.items()))


def method_named(name: str) -> type[SaliencyMethod]:
    """The method of a name.

    Raises:
        UnknownMethodError: when there is none.
    """
    known = registered()
    if name not in known:
        raise UnknownMethodError(f"no method {name!r}. Known: {', '.join(known)}.")
    return known[name]
