"""What can go wrong with the page."""

from __future__ import annotations

from conceptlens.values.errors import ConceptError, ConceptlensError, ImageError, RecipeError


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
    """The HTTP status of one of our errors: 422 for what the user asked, 500 for what the model did."""
    if isinstance(error, RequestError):
        return error.status
    return 422 if isinstance(error, (ConceptError, ImageError, RecipeError)) else 500
