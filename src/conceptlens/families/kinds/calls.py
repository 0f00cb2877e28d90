"""The arguments of a transformer's call by their names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from conceptlens.values.errors import ModelError
from conceptlens.values.models import Module

signature_of = cache(inspect.signature)
"""The signature of a function, looked up once: a model's forward runs many times."""


def named_arguments(module: Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a module's call by name, those of a forward that takes `**kwargs` among them.

    Raises:
        ModelError: for a forward that was replaced by one which does not name what it was given.
    """
    signature = signature_of(type(module).forward)
    given = dict(signature.bind(module, *args, **kwargs).arguments)
    given.pop(next(iter(signature.parameters)), None)
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            given |= given.pop(parameter.name, {})
        elif parameter.kind is parameter.VAR_POSITIONAL and given.pop(parameter.name, ()):
            raise replaced_forward(module)
    return given


def replaced_forward(module: Module) -> ModelError:
    """The error for a forward that no longer names its arguments."""
    return ModelError(
        f"the forward of {type(module).__name__} was replaced by one that does not name its arguments (by a cache or a "
        "parallel runner, say). Remove that tool, or have it wrap the forward with functools.wraps."
    )
