"""A guidance by its name, with settings as they stand on a command line or in a saved result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from conceptlens.guidance.base import Guidance, known
from conceptlens.values.errors import ConceptlensError, RecipeError, one_line


def guidance_named(name: str, settings: Mapping[str, Any] | None = None) -> Guidance:
    """A guidance from a name such as "tsam" or, with a preset, "tsam:paper-ae".

    Args:
        name: of the method, and after a colon of its preset.
        settings: fields of the method, as plain JSON values.

    Raises:
        RecipeError: for an unknown method, preset or setting, or an impossible value.
    """
    method, _, preset = name.partition(":")
    if method not in known():
        raise RecipeError(f"no guidance {method!r}. Known: {', '.join(known())}; with a preset, tsam:paper-ae.")
    kind = known()[method]
    have = {field.name for field in fields(kind)}
    unknown = sorted(set(settings or {}) - have)
    if unknown:
        raise RecipeError(f"{method} has no setting {unknown[0]!r}. It has: {', '.join(sorted(have))}.")
    try:
        changes: dict[str, Any] = {name: _plain(value) for name, value in (settings or {}).items()}
        return kind.preset(preset, **changes) if preset else kind(**changes)
    except ConceptlensError:
        raise
    except (TypeError, ValueError) as error:
        raise RecipeError(f"a setting of {method} has a wrong value: {one_line(error)}. Correct it.") from error


def _plain(value: object) -> object:
    """JSON knows neither tuples nor numbers as keys."""
    if isinstance(value, dict):
        return {int(step): number for step, number in value.items()}
    return tuple(value) if isinstance(value, list) else value
