"""Images with masks, one file per dataset."""

from __future__ import annotations

import importlib
import pkgutil

from conceptlens.bench.datasets.base import Dataset
from conceptlens.errors import ConceptlensError

_registry: dict[str, type[Dataset]] = {}


class UnknownDatasetError(ConceptlensError, ValueError):
    """No dataset has this name."""


def register(dataset: type[Dataset]) -> type[Dataset]:
    """Class decorator: makes a dataset known by its `name`."""
    if _registry.setdefault(dataset.name, dataset) is not dataset:
        raise ValueError(f"there are two datasets named {dataset.name}")
    return dataset


def registered() -> dict[str, type[Dataset]]:
    """All datasets by name: the files of this folder."""
    for module in pkgutil.iter_modules(__path__):
        if module.name != "base" and not module.name.startswith("_"):
            importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(_registry.items()))


def dataset_named(name: str) -> type[Dataset]:
    """The dataset of a name.

    Raises:
        UnknownDatasetError: when there is none.
    """
    known = registered()
    if name not in known:
        raise UnknownDatasetError(f"no dataset {name!r}. Known: {', '.join(known)}.")
    return known[name]
