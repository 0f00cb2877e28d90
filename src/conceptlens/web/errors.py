"""What can go wrong with the page."""

from __future__ import annotations

from conceptlens.values.errors import ConceptError, ConceptlensError, ImageError, LibraryError, RecipeError


class AppError(ConceptlensError, RuntimeError):
    """The page cannot be served: a package is missing, or the address is taken."""


class RequestError(ConceptlensError):
    """A request cannot be answered.

    Attributes:
        status: the HTTP status that says so.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def status_of(error: ConceptlensError) -> int:
    """The HTTP status of an error: 422 for what was asked, 501 for a missing package, 500 for what the model did."""
    if isinstance(error, RequestError):
        return error.status
    if isinstance(error, LibraryError):
        return 501
    return 422 if isinstance(error, (ConceptError, ImageError, RecipeError)) else 500
