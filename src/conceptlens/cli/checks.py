"""What a command line asks for, refused before a model is opened, or a library imported that takes seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conceptlens.values.errors import RecipeError, UnknownMethodError
from conceptlens.values.files import check_file, check_folder
from conceptlens.values.listings import methods
from conceptlens.values.recipe import RECIPE_FIELDS, Recipe, check_counts, check_preset, check_seed
from conceptlens.values.words import check_concepts, check_prompts


def check_request(
    options: Mapping[str, Any],
    *,
    prompt: str | None = None,
    concepts: Sequence[str] | None = None,
    seed: int = 0,
    out: Path | None = None,
    preset: str | None = None,
    abstain: float = 0.0,
    record: Path | None = None,
) -> None:
    """Refuses what no model could do, with the errors of the library.

    Raises:
        ConceptError: for an unusable list of concepts.
        OutputError: for an `out` that can be no folder, or a `record` that can be no file.
        RecipeError: for an impossible setting.
    """
    if concepts is not None:
        check_concepts(concepts)
    if prompt is not None:
        check_prompts(prompt)
    check_preset(preset)
    if not 0 <= abstain < 1:
        raise RecipeError(f"abstain is a share of the pixels, from 0 to below 1; got {abstain}.")
    Recipe().override({name: value for name, value in options.items() if name in RECIPE_FIELDS})
    check_counts(options)
    check_seed(seed)
    if out is not None:
        check_folder(out)
    if record is not None:
        check_file(record)


def check_method(name: str) -> None:
    """Raises an `UnknownMethodError` for a method that there is not."""
    if name not in methods():
        raise UnknownMethodError(f"no method {name!r}. Known: {', '.join(methods())}.")
