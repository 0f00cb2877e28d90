"""See where a diffusion transformer sees a concept (ConceptAttention, arXiv 2502.04320)."""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger
from typing import TYPE_CHECKING

from conceptlens._version import __version__
from conceptlens.errors import ConceptError, ConceptlensError, ImageError, ModelError, OutputError, RecipeError
from conceptlens.maps import ConceptMaps
from conceptlens.recipe import Recipe
from conceptlens.records import ImageRecord
from conceptlens.video_maps import VideoMaps

if TYPE_CHECKING:
    from conceptlens.engine.doctor import Diagnosis, doctor
    from conceptlens.session import Session, load


CHATTY = ("torchao", "torch.utils._pytree", "transformers", "diffusers.quantizers")
"""Packages that speak of themselves when they are imported."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what some packages say of themselves while diffusers imports them; their levels are put back."""
    loggers = [getLogger(name) for name in CHATTY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def __getattr__(name: str) -> object:
    """What needs diffusers, which takes seconds to import, is fetched when first used."""
    if name in ("load", "Session"):
        with _quiet():
            from conceptlens import session

        return getattr(session, name)
    if name in ("doctor", "Diagnosis"):
        with _quiet():
            from conceptlens.engine import doctor

        return getattr(doctor, name)
    raise AttributeError(f"module 'conceptlens' has no attribute {name!r}")


__all__ = [
    "ConceptError",
    "ConceptMaps",
    "ConceptlensError",
    "Diagnosis",
    "ImageError",
    "ImageRecord",
    "ModelError",
    "OutputError",
    "Recipe",
    "RecipeError",
    "Session",
    "VideoMaps",
    "__version__",
    "doctor",
    "load",
]
