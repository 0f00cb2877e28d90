"""See where a diffusion transformer sees a concept (ConceptAttention, arXiv 2502.04320)."""

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


def __getattr__(name: str) -> object:
    """What needs diffusers, which takes seconds to import, is fetched when first used."""
    if name in ("load", "Session"):
        from conceptlens import session

        return getattr(session, name)
    if name in ("doctor", "Diagnosis"):
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
