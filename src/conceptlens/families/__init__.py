"""What differs between models: one file per family. Scores, maps and files do not belong here.

A family with a file in this folder has its text half written out; one in `entered` is served by its own blocks, one in
`cross` by its cross attention.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TypeVar

from conceptlens.families.base import ModelAdapter, PromptEncoders
from conceptlens.families.cross import cross_layouts
from conceptlens.families.groups import GROUPS, UNKNOWN, Group
from conceptlens.values.errors import ModelError
from conceptlens.values.models import Model
from conceptlens.values.registry import Registry

Kind = TypeVar("Kind", bound=ModelAdapter)

_registry: Registry[ModelAdapter] = Registry(__name__, "adapter", ModelError, folders=("entered",))


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


def prompt_encoders() -> dict[str, PromptEncoders]:
    """By pipeline class, how pipelines that guidance serves use their text encoders."""
    declared = (family.prompts for family in registered().values())
    return {prompts.pipeline: prompts for prompts in declared if prompts is not None}


def known_classes() -> dict[str, Group]:
    """The transformer classes that someone has looked at, sorted, and how each treats text."""
    groups = {name: group for group in GROUPS for name in group.unserved}
    groups |= {name: layout.group for name, layout in cross_layouts().items()}
    groups |= {name: family.group for name, family in registered().items() if family.group is not None}
    return dict(sorted(groups.items()))


def group_of(name: str) -> Group:
    """The group of a transformer class; `UNKNOWN` for one that nobody has looked at."""
    return known_classes().get(name, UNKNOWN)


def adapter_for(transformer: Model) -> ModelAdapter:
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
