"""A saved result, made again from its maps.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from conceptlens.values.errors import ConceptlensError, one_line
from conceptlens.values.files import MANIFEST, settle
from conceptlens.values.recipe import Recipe, check_seed

if TYPE_CHECKING:
    from conceptlens.maps.image_maps import ConceptMaps
    from conceptlens.session import Session

_KINDS: dict[str, tuple[type, ...]] = {
    "model": (str,), "task": (str,), "prompt": (str,), "concepts": (list,), "background": (list, type(None)),
    "recipe": (dict, type(None)), "seed": (int, type(None)),
    "guidance": (dict, type(None)), "batch": (int, type(None)), "single_stream": (bool, type(None)),
}  # fmt: skip
_NEEDED = ("model", "task", "prompt", "concepts", "background", "recipe", "seed")


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
    path, told = read_manifest(file)
    background, options = told["background"] or False, dict(told.get("pipeline") or {})
    # A field that came after the file was written is left at its default, which is what was done before, not at that of
    # the preset.
    full = {**Recipe().to_dict(), **told["recipe"]} if told["recipe"] else {}
    settings = {name: tuple(v) if isinstance(v, list) else v for name, v in full.items()}
    from conceptlens.guidance import guidance_named
    from conceptlens.session import load

    model, seed, prompt = told["model"], told["seed"], told["prompt"]
    if session is None:
        session = load(None if model == "demo" else model, device=device, single_stream=bool(told.get("single_stream")))
    elif session.model_id != model:
        raise RerunError(f"{path} was made by {model}, this session has {session.model_id}. Open {model}.")
    if told["task"] == "generate":
        if told["recipe"] is not None:
            settings["background"] = background
        if guided := told.get("guidance"):
            settings["guide"] = guidance_named(guided["method"], {k: v for k, v in guided.items() if k != "method"})
        return session.generate(prompt, told["concepts"], seed=seed, **settings, **options)
    record = session.read(path.parent / "image.png", prompt=prompt, seed=seed, **settings, **options)
    return session.probe(record, told["concepts"], background=background)


def read_manifest(file: str | Path) -> tuple[Path, Mapping[str, Any]]:
    """The `maps.json` of a result that can be repeated, and what it tells; opens no model.

    Raises:
        RerunError: as `rerun`.
    """
    path = _manifest_of(file)
    told = _read(path)
    damaged = "{} is damaged ({}). Save the maps again."
    missing = [name for name in _NEEDED if name not in told]
    if missing:
        raise RerunError(f"{path} does not tell {missing[0]!r}. Save the maps again.")
    for name, kinds in _KINDS.items():
        if name in told and (not isinstance(told[name], kinds) or (bool not in kinds and told[name] is True)):
            raise RerunError(damaged.format(path, f"its {name} is {told[name]!r:.40}"))
    if told["recipe"] is None and "guidance" not in told:
        raise RerunError(f"{path} was made by the method {told.get('method')!r}, not by a session. Run that method.")
    if told["seed"] is None:
        raise RerunError(f"{path} has no seed: a generator or latents of the caller's own were used. Use seed=.")
    if told.get("batch"):
        raise RerunError(f"{path} is one of a batch of {told['batch']} pictures. Paint its prompt alone, then save.")
    try:
        check_seed(told["seed"])
        Recipe().override(told["recipe"] or {})
        dict(told.get("pipeline") or {})
        if told.get("guidance"):
            str(told["guidance"]["method"])
    except (KeyError, TypeError, ValueError) as error:
        raise RerunError(damaged.format(path, one_line(error))) from error
    if told["task"] != "generate" and not (path.parent / "image.png").exists():
        raise RerunError(f"no image.png beside {path}, which was read. Keep the files of a result together.")
    return path, told


def difference(maps: ConceptMaps, file: str | Path) -> float:
    """The largest absolute difference between the scores of `maps` and those saved beside a `maps.json`.

    Raises:
        RerunError: when there are no saved scores, or they have another shape.
    """
    import numpy as np
    import torch

    path = _manifest_of(file).parent / "maps.npz"
    try:
        with path.open("rb") as stored, np.load(stored) as arrays:
            saved = torch.from_numpy(arrays["scores"])
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise RerunError(f"cannot read {path}: {one_line(error)}. Save the maps again.") from error
    if saved.shape != maps.scores.shape:
        raise RerunError(f"{path} has scores of shape {tuple(saved.shape)}; got {tuple(maps.scores.shape)}.")
    return float((saved - maps.scores).abs().max())


def _manifest_of(file: str | Path) -> Path:
    path = Path(file)
    path = path / MANIFEST if path.is_dir() else path
    settle(path.parent)
    return path


def _read(path: Path) -> Mapping[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RerunError(f"cannot read {path}: {error.strerror}. Name a maps.json that save() wrote.") from error
    except (ValueError, RecursionError) as error:
        raise RerunError(f"{path} is no maps.json of conceptlens, or damaged. Name one that save() wrote.") from error
    if not isinstance(told, dict):
        raise RerunError(f"{path} is no maps.json of conceptlens. Name one that save() wrote.")
    return told
