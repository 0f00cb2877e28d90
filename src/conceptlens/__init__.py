"""See where a diffusion transformer sees a concept (ConceptAttention, arXiv 2502.04320)."""

from typing import TYPE_CHECKING

from conceptlens._version import __version__
from conceptlens.errors import ConceptError, ConceptlensError, ImageError, ModelError, OutputError, RecipeError
from conceptlens.maps import ConceptMaps
from conceptlens.recipe import Recipe
from conceptlens.records import ImageRecord

if TYPE_CHECKING:
    from conceptlens.session import Session, load


def __getattr__(name: str) -> object:
    """`load` and `Session` need diffusers, which takes seconds to import; they are fetched when first used."""
    if name in ("load", "Session"):
        from conceptlens import session

        return getattr(session, name)
    raise AttributeError(f"module 'conceptlens' has no attribute {name!r}")


__all__ = [
    "ConceptError",
    "ConceptMaps",
    "ConceptlensError",
    "ImageError",
    "ImageRecord",
    "ModelError",
    "OutputError",
    "Recipe",
    "RecipeError",
    "Session",
    "__version__",
    "load",
]
