"""Is a setting of a guidance what it should be? Each is given back in one form, or refused in one line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, TypeGuard

from conceptlens.values.errors import RecipeError, shown


def whole(value: object, least: int) -> bool:
    """Whether this is a whole number that is not below another; those of numpy are."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def finite(value: object) -> TypeGuard[float]:
    """Whether this is a number, and neither infinite nor NaN."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def number(
    name: str, value: object, wanted: str, fits: Callable[[float], bool] = lambda _: True, hint: str = ""
) -> float:
    """A finite number.

    Raises:
        RecipeError: for what is none, or does not fit.
    """
    if not finite(value) or not fits(float(value)):
        raise RecipeError(f"{name} must be {wanted}; got {shown(value)}.{hint}")
    return float(value)


def step_numbers(value: object) -> tuple[int, ...]:
    """Numbers of denoising steps.

    Raises:
        RecipeError: for anything else.
    """
    steps = _several(value)
    if steps is None or not all(whole(step, 0) for step in steps):
        raise RecipeError(f"steps must be whole numbers from 0 (the noisiest); got {shown(value)}.")
    return tuple(int(step) for step in steps)


def by_step(name: str, value: object, wanted: str, sound: Callable[[Any], bool]) -> None:
    """Checks what is given for single denoising steps.

    Raises:
        RecipeError: for no mapping from steps to what is sound.
    """
    if not isinstance(value, Mapping) or not all(whole(step, 0) and sound(one) for step, one in value.items()):
        raise RecipeError(f"{name} must give {wanted} for each step; got {shown(value)}.")


def map_size(value: object) -> tuple[int, int]:
    """(rows, cols).

    Raises:
        RecipeError: for anything but two whole numbers.
    """
    sides = _several(value) or ()
    if len(sides) != 2 or not all(whole(side, 1) for side in sides):
        raise RecipeError(f"attention_size must be two whole numbers, (rows, cols); got {shown(value)}.")
    return int(sides[0]), int(sides[1])


def kernel(value: object) -> tuple[int, float]:
    """(kernel size, sigma) of a smoothing.

    Raises:
        RecipeError: for a kernel without a middle, or without a spread.
    """
    parts = _several(value) or ()
    if len(parts) != 2 or not whole(parts[0], 1) or parts[0] % 2 == 0 or not finite(parts[1]) or parts[1] <= 0:
        raise RecipeError(
            f"smoothing must be (kernel size, sigma), an odd whole number and a number above 0; got {shown(value)}."
        )
    return int(parts[0]), float(parts[1])


def _several(value: object) -> tuple[Any, ...] | None:
    return tuple(value) if isinstance(value, Iterable) else None
