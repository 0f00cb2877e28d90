"""Settings of a method as a frozen dataclass, and the maps that come out with them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.methods.base import SaliencyMethod
from conceptlens.values.errors import RecipeError, shown
from conceptlens.values.provenance import RunInfo, versions_of

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


def _of_kind(name: str, value: Any, hint: Any) -> Any:
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


def plain(options: Any) -> dict[str, Any]:
    """A settings dataclass as plain JSON values."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(options).items()}


def maps_of(
    method: SaliencyMethod,
    concepts: Sequence[str],
    scores: Float[Tensor, "concept rows cols"],
    *,
    image: Image.Image,
    prompt: str,
    seed: int,
    started: float,
    **more: Any,
) -> ConceptMaps:
    """The result of a method without a concept stream.

    Args:
        method: that made it.
        concepts: one name for each map.
        scores: the maps.
        image: the picture that was seen.
        prompt: what the model was told about it.
        seed: of the noise.
        started: `time.perf_counter()` at the beginning.
        **more: fields of `RunInfo` that the method alone has, such as `tokens`.
    """
    return ConceptMaps(
        concepts=tuple(concepts),
        scores=scores.detach().float().cpu(),
        image=image,
        recipe=None,
        model_id=method.model_id,
        prompt=prompt,
        seed=seed,
        run_info=RunInfo(
            task="read",
            method=method.name,
            settings=method.settings,
            versions=versions_of("diffusers", "torch", "transformers"),
            seconds=round(time.perf_counter() - started, 3),
            **more,
        ),
    )
