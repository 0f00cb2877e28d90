"""One file per family whose text is only keys and values of cross attention: where that is, and what feeds it."""

from __future__ import annotations

from conceptlens.families.kinds.cross_attention import CrossLayout
from conceptlens.values.errors import ModelError
from conceptlens.values.registry import Registry

_registry: Registry[CrossLayout] = Registry(__name__, "cross-attention family", ModelError)


def register(family: type[CrossLayout]) -> type[CrossLayout]:
    """Class decorator: makes a family known for the transformer classes it names.

    Raises:
        ValueError: when another family already serves one of them.
    """
    for name in family.classes:
        _registry.add(name, family)
    return family


def cross_layouts() -> dict[str, CrossLayout]:
    """By transformer class, where the cross attention of each class is that `concept-cross-attention` reads."""
    return {name: family() for name, family in _registry.all().items()}
