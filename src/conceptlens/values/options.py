"""Settings as frozen dataclasses, filled from keywords that are checked against their annotations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from conceptlens.values.errors import RecipeError, shown

Options = TypeVar("Options")


def options_of(kind: type[Options], given: Mapping[str, Any]) -> Options:
    """The settings dataclass `kind` with the given fields, which are checked against its annotations.

    Raises:
        RecipeError: for a name that is no field, or a value of another kind.
    """
    hints = get_type_hints(kind)
    unknown = sorted(set(given) - set(hints))
    if unknown:
        raise RecipeError(f"no option {unknown[0]!r}. Known: {', '.join(hints)}.")
    return kind(**{name: _of_kind(name, value, hints[name]) for name, value in given.items()})


def _of_kind(name: str, value: object, hint: object) -> object:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise RecipeError(f"{name} must be one of {', '.join(map(str, get_args(hint)))}; got {shown(value)}.")
        return value
    kinds = get_args(hint) or (hint,)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) not in kinds:
        told = " or ".join(
            {int: "a whole number", float: "a number", bool: "true or false"}.get(k, "None") for k in kinds
        )
        raise RecipeError(f"{name} must be {told}; got {shown(value)}.")
    return value


def check_range(name: str, value: int | float, low: int | float, high: int | float) -> None:
    """Raises `RecipeError` for a number that is not from `low` to `high`."""
    if not low <= value <= high:
        raise RecipeError(f"{name} must be from {low:g} to {high:g}; got {shown(value)}.")
