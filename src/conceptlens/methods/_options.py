"""A method's settings as plain values, and the maps that come out with them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.methods.base import SaliencyMethod
from conceptlens.values.provenance import RunInfo, versions_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def plain(options: DataclassInstance) -> dict[str, Any]:
    """A settings dataclass as plain JSON values."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(options).items()}


def maps_of(  # noqa: PLR0913 - what a result says of itself: one keyword for each field
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
