"""Names in a registry are unique, and an unknown one names those that exist."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from conceptlens.bench.datasets import registered as datasets
from conceptlens.bench.table_one import models_of
from conceptlens.methods import registered
from conceptlens.values import listings
from conceptlens.values.errors import ModelError
from conceptlens.values.registry import Registry


class First: ...


class Second: ...


def test_a_name_belongs_to_one_class() -> None:
    known: Registry[object] = Registry("conceptlens.ops", "thing", ModelError)
    known.add("b", First)
    known.add("b", First)
    known.add("a", Second)
    assert list(known.all().items()) == [("a", Second), ("b", First)]
    assert known.named("b") is First
    with pytest.raises(ValueError, match="two things are named b: First and Second"):
        known.add("b", Second)
    with pytest.raises(ModelError, match=r"no thing 'c'. Known: a, b\."):
        known.named("c")


def test_the_listed_methods_are_those_of_the_registry() -> None:
    expected = {
        name: {"summary": method.summary, **asdict(method.info), "zoo": models_of(name)}
        for name, method in registered().items()
    }
    assert listings.methods() == expected, "run: python benchmarks/models.py"


def test_the_listed_datasets_are_those_of_the_registry() -> None:
    expected = {name: {"summary": found.summary, "needs": found.source} for name, found in datasets().items()}
    assert listings.datasets() == expected, "run: python benchmarks/models.py"
