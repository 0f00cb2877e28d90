"""Ways to say where a concept is, one file each, behind one interface. Scores and datasets do not belong here."""

from __future__ import annotations

from typing import TypeVar

from conceptlens.methods.base import SaliencyMethod
from conceptlens.values.errors import UnknownMethodError
from conceptlens.values.registry import Registry

Kind = TypeVar("Kind", bound=SaliencyMethod)
_registry: Registry[SaliencyMethod] = Registry(__name__, "method", UnknownMethodError)
registered, method_named = _registry.all, _registry.named


def register(method: type[Kind]) -> type[Kind]:
    """Class decorator: makes a method known by its `name`."""
    _registry.add(method.name, method)
    return method


__all__ = ["UnknownMethodError", "method_named", "register", "registered"]
