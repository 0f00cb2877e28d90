"""See where a diffusion transformer sees a concept (ConceptAttention, arXiv 2502.04320)."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

from conceptlens._version import __version__
from conceptlens.values.errors import ConceptError, ConceptlensError, ImageError, ModelError, OutputError, RecipeError

if TYPE_CHECKING:
    from conceptlens.diagnosis import Diagnosis, doctor
    from conceptlens.features.extractor import DenseFeatures, Extractor
    from conceptlens.maps.image_maps import ConceptMaps
    from conceptlens.maps.video_maps import VideoMaps
    from conceptlens.session import Session, load
    from conceptlens.values.clips import Clip
    from conceptlens.values.recipe import Recipe
    from conceptlens.values.records import ImageRecord


_LATER = {
    "Clip": "values.clips",
    "ConceptMaps": "maps.image_maps",
    "DenseFeatures": "features.extractor",
    "Diagnosis": "diagnosis",
    "Extractor": "features.extractor",
    "ImageRecord": "values.records",
    "Recipe": "values.recipe",
    "Session": "session",
    "VideoMaps": "maps.video_maps",
    "doctor": "diagnosis",
    "load": "session",
}
"""What is imported when it is first used, and the module that has it: most of it needs torch or diffusers."""
CHATTY = ("torchao", "torch.utils._pytree", "transformers", "diffusers.quantizers")
"""Packages that speak of themselves when they are imported."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what some packages say of themselves while diffusers imports them; their levels are put back."""
    from logging import ERROR, getLogger

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
    """What stands in `_LATER` is fetched when it is first used."""
    if name not in _LATER:
        raise AttributeError(f"module 'conceptlens' has no attribute {name!r}")
    with _quiet():
        found = getattr(import_module(f"conceptlens.{_LATER[name]}"), name)
    globals()[name] = found
    return found


__all__ = [
    "Clip",
    "ConceptError",
    "ConceptMaps",
    "ConceptlensError",
    "DenseFeatures",
    "Diagnosis",
    "Extractor",
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
