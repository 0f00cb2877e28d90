"""Registry: classes by name, each in a file of its own folder."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from typing import Generic, TypeVar

from conceptlens.values.errors import ConceptlensError

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes by name, which the files of a package add when they are imported.

    Args:
        package: whose files are imported when someone asks: all but `base` and those with a leading underscore.
        kind: what is registered, for messages: "dataset".
        unknown: the error for a name that nothing has.
        folders: packages inside the package whose files are imported as well.
    """

    def __init__(self, package: str, kind: str, unknown: type[ConceptlensError], folders: tuple[str, ...] = ()) -> None:
        self._package, self._kind, self._unknown = package, kind, unknown
        self._packages = (package, *(f"{package}.{folder}" for folder in folders))
        self._known: dict[str, type[T]] = {}

    def add(self, name: str, entry: type[T]) -> None:
        """Makes a class known by a name.

        Raises:
            ValueError: when another class has the name.
        """
        known = self._known.setdefault(name, entry)
        if known is not entry:
            raise ValueError(f"two {self._kind}s are named {name}: {known.__qualname__} and {entry.__qualname__}")

    def all(self) -> dict[str, type[T]]:
        """All classes, sorted by name."""
        for package in self._packages:
            for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
                if module.name != "base" and not module.name.startswith("_"):
                    importlib.import_module(f"{package}.{module.name}")
        return dict(sorted(self._known.items()))

    def named(self, name: str) -> type[T]:
        """The class of a name; the registry's `unknown` error, with the names there are, when there is none."""
        own_file = f"{self._package}.{name.replace('-', '_')}"
        if name.replace("-", "_").isidentifier() and importlib.util.find_spec(own_file) is not None:
            importlib.import_module(own_file)  # where a name is that of its file, the others stay unread
        if name in self._known:
            return self._known[name]
        known = self.all()
        if name not in known:
            raise self._unknown(f"no {self._kind} {name!r}. Known: {', '.join(known)}.")
        return known[name]
