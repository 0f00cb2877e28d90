"""Keywords of a pipeline's call, checked against what its signature says of them, before it paints."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from conceptlens.values.errors import RecipeError
from conceptlens.values.models import Pipeline
from conceptlens.values.recipe import check_counts
from conceptlens.values.words import check_text

_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}


def check_call(pipeline: Pipeline, call: Mapping[str, Any]) -> None:
    """Refuses plain values of another kind than the annotation of their keyword; other objects are the pipeline's.

    Raises:
        RecipeError: for such a value, a number out of range, or a text that no tokenizer takes.
    """
    try:
        hints = get_type_hints(type(pipeline).__call__)
    except (AttributeError, NameError, TypeError):  # names that only a type checker imports
        hints = {}
    known = inspect.signature(pipeline.__call__).parameters
    for name, value in call.items():
        default = known[name].default if name in known else inspect.Parameter.empty
        kinds = _kinds(hints.get(name), default)
        check_text(value, name)
        if kinds and type(value) in _NAMES and not any(_fits(value, kind) for kind in kinds):
            told = " or ".join(dict.fromkeys(_NAMES[kind] for kind in kinds if kind in _NAMES))
            raise RecipeError(f"{name} must be {told}; got {value!r:.60}.")
    check_counts(call)


def _kinds(hint: object, default: object) -> tuple[Any, ...]:
    """What a keyword takes: its annotation and the type of its default; nothing where neither names a plain type."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = [part for part in parts if part is not None]
    if default is not inspect.Parameter.empty:
        kinds.append(type(default))
    plain = [kind for kind in kinds if kind in _NAMES and kind is not NoneType]
    return tuple(kinds) if plain and Any not in kinds else ()


def _fits(value: object, kind: object) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is kind
