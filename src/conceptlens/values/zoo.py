"""Models of the repository's zoo by name: "zoo:clip" is the folder `clip` in it."""

from __future__ import annotations

import os
from pathlib import Path

from conceptlens.values.errors import ModelError

PREFIX, VARIABLE = "zoo:", "CONCEPTLENS_ZOO"


def zoo_models() -> dict[str, Path]:
    """The models of the zoo by name: `$CONCEPTLENS_ZOO`, or else `zoo` in the working directory or the source checkout.

    Raises:
        ModelError: when there is no such folder.
    """
    given = os.environ.get(VARIABLE)
    places = [Path(given)] if given else [Path("zoo"), Path(__file__).parents[3] / "zoo"]
    zoo = next((place for place in places if place.is_dir()), None)
    if zoo is None:
        raise ModelError(f"no zoo of models at {places[0]}. Set {VARIABLE} to the folder zoo of the repository.")
    return {PREFIX + place.name: place for place in sorted(zoo.iterdir()) if place.is_dir()}


def located(model: str | Path) -> str | Path:
    """The folder of a model that is named as one of the zoo; anything else as it was given.

    Raises:
        ModelError: when the zoo has none of this name.
    """
    if not str(model).startswith(PREFIX):
        return model
    known = zoo_models()
    if str(model) not in known:
        raise ModelError(f"no {model} in the zoo. Known: {', '.join(known) or 'none'}.")
    return known[str(model)]


def identity(model: str | Path) -> str:
    """What a model is called in results: a folder by its whole path, one of the zoo by its name, else as given."""
    return str(Path(model).resolve()) if Path(model).is_dir() else str(model)
