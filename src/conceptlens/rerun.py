"""A saved result, made again from its maps.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from conceptlens.errors import ConceptlensError, one_line
from conceptlens.guidance import guidance_named
from conceptlens.maps import ConceptMaps
from conceptlens.recipe import Recipe
from conceptlens.session import Session, load


class RerunError(ConceptlensError, ValueError):
    """A saved result cannot be repeated."""


def rerun(file: str | Path, *, session: Session | None = None, device: str | None = None) -> ConceptMaps:
    """Repeats a result that `ConceptMaps.save` wrote: paints the prompt again, or reads the picture beside the file.

    Equal versions on an equal device give equal bits; `difference` tells how far the new maps are from the saved ones.

    Args:
        file: a `maps.json`, or the folder that holds it.
        session: an open session of the same model; it is opened by its name when None.
        device: where to open it.

    Raises:
        RerunError: when the file is missing or damaged, or does not tell all that it takes.
        ModelError: when its model cannot be opened.
    """
    path = _provenance_file(file)
    told = _read(path)
    try:
        model, task, seed, recipe = told["model"], told["task"], told["seed"], told["recipe"]
        concepts, background = told["concepts"], told["background"] or False
        prompt, options = told["prompt"], dict(told.get("pipeline") or {})
    except KeyError as error:
        raise RerunError(f"{path} does not tell {error}. Save the maps again.") from error
    except (TypeError, ValueError) as error:
        raise RerunError(f"{path} is damaged ({one_line(error)}). Save the maps again.") from error
    guided = told.get("guidance")
    if recipe is None and "guidance" not in told:
        raise RerunError(f"{path} was made by the method {told.get('method')!r}, not by a session. Run that method.")
    if not isinstance(recipe, dict | None):
        raise RerunError(f"{path} is damaged (its recipe is {recipe!r:.40}). Save the maps again.")
    if seed is None:
        raise RerunError(f"{path} has no seed: a generator or latents of the caller's own were used. Use seed=.")
    if told.get("batch"):
        raise RerunError(f"{path} is one of a batch of {told['batch']} pictures. Paint its prompt alone, then save.")
    # A field that came after the file was written is left at its default, which is what was done before, not at that of
    # the preset.
    full = {} if recipe is None else {**Recipe().to_dict(), **recipe}
    settings = {name: tuple(v) if isinstance(v, list) else v for name, v in full.items()}
    if recipe is not None:
        settings["background"] = background
    if session is None:
        session = load(
            None if model == "demo" else model, device=device, single_stream=told.get("single_stream", False)
        )
    elif session.model_id != model:
        raise RerunError(f"{path} was made by {model}, this session has {session.model_id}. Open {model}.")
    if task == "generate":
        if guided:
            settings["guide"] = guidance_named(guided["method"], {k: v for k, v in guided.items() if k != "method"})
        return session.generate(prompt, concepts, seed=seed, **settings, **options)
    picture = path.parent / "image.png"
    if not picture.exists():
        raise RerunError(f"no image.png beside {path}, which was read. Keep the files of a result together.")
    settings.pop("background", None)
    record = session.read(picture, prompt=prompt, seed=seed, **settings, **options)
    return session.probe(record, concepts, background=background)


def difference(maps: ConceptMaps, file: str | Path) -> float:
    """The largest absolute difference between the scores of `maps` and those saved beside a `maps.json`.

    Raises:
        RerunError: when there are no saved scores, or they have another shape.
    """
    path = _provenance_file(file).parent / "maps.npz"
    try:
        with path.open("rb") as stored, np.load(stored) as arrays:
            saved = torch.from_numpy(arrays["scores"])
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise RerunError(f"cannot read {path}: {one_line(error)}. Save the maps again.") from error
    if saved.shape != maps.scores.shape:
        raise RerunError(f"{path} has scores of shape {tuple(saved.shape)}; got {tuple(maps.scores.shape)}.")
    return float((saved - maps.scores).abs().max())


def _provenance_file(file: str | Path) -> Path:
    path = Path(file)
    return path / "maps.json" if path.is_dir() else path


def _read(path: Path) -> Mapping[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RerunError(f"cannot read {path}: {one_line(error)}. Name a maps.json that save() wrote.") from error
    if not isinstance(told, dict):
        raise RerunError(f"{path} is no maps.json of conceptlens. Name one that save() wrote.")
    return told
