"""What can go wrong in words a user can act on: what, got, expected, next step."""

from __future__ import annotations

import re
import unicodedata

_NUMBERS = re.compile(r"\b(tensor|array)\(.*")


class ConceptlensError(Exception):
    """Base of all errors that the package raises on purpose. Its text is one clear line that any terminal can show."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ConceptError(ConceptlensError, ValueError):
    """The list of concepts cannot be used: empty, duplicate, too long for the text encoder."""


class ImageError(ConceptlensError, ValueError):
    """An image cannot be read or has an impossible size."""


class ModelError(ConceptlensError, ValueError):
    """A model is unknown, unsupported, or in a state in which its attention cannot be read exactly."""


class ScoreError(ModelError):
    """A model or a method gave scores that are no numbers."""


class RecipeError(ConceptlensError, ValueError):
    """A setting of the method is out of range for the model at hand."""


class UnknownMethodError(ConceptlensError, ValueError):
    """No method has this name."""


class BudgetError(RecipeError):
    """A record would need more memory than it may take.

    Attributes:
        fitting: how many denoising steps would fit.
    """

    def __init__(self, message: str, fitting: int = 0) -> None:
        super().__init__(message)
        self.fitting = fitting


class OutputError(ConceptlensError, OSError):
    """A result could not be written. Nothing half-written is left behind."""


class LibraryError(ConceptlensError, ImportError):
    """A package that this needs, and that is no dependency, is not installed."""


def one_line(error: BaseException) -> str:
    """The first non-empty line of an exception's text, for use inside our own messages; without numbers of tensors."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return _NUMBERS.sub(r"a \1", lines[0]).rstrip(".") if lines else type(error).__name__


def shown(value: object) -> str:
    """A value as a message may show it: short, and of a tensor or array its shape alone."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    if isinstance(value, (list, tuple)) and any(getattr(part, "shape", None) is not None for part in value):
        return f"a {type(value).__name__} of {len(value)} tensors or arrays"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def printable(text: str) -> str:
    """One line of text as a terminal may get it: what steers one, and what has no letter, stands as its escape."""
    return "".join(c if unicodedata.category(c) not in ("Cc", "Cs") else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
