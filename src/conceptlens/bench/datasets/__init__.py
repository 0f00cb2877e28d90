"""Images with masks, one file per dataset."""

from __future__ import annotations

from typing import TypeVar

from conceptlens.bench.datasets.base import Dataset
from conceptlens.values.errors import ConceptlensError
from conceptlens.values.registry import Registry


class UnknownDatasetError(ConceptlensError, ValueError):
    """No dataset has this name."""


Kind = TypeVar("Kind", bound=Dataset)
_registry: Registry[Dataset] = Registry(__name__, "dataset", UnknownDatasetError)
registered, dataset_named = _registry.all, _registry.named


def register(dataset: type[Kind]) -> type[Kind]:
    """Class decorator: makes a dataset known by its `name`."""
    _registry.add(dataset.name, dataset)
    return dataset
