"""A saved result, made again from its maps.json."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from conceptlens.values.errors import one_line
from conceptlens.values.files import MANIFEST, settle
from conceptlens.values.provenance import Provenance, RerunError

if TYPE_CHECKING:
    from conceptlens.maps.image_maps import ConceptMaps
    from conceptlens.maps.video_maps import VideoMaps
    from conceptlens.session import Session
    from conceptlens.values.clips import Clip


def rerun(file: str | Path, *, session: Session | None = None, device: str | None = None) -> ConceptMaps:
    """Repeats a result that `save` wrote: paints the prompt again, or reads the picture, or film, beside the file.

    Equal versions on an equal device give equal bits; `difference` tells how far the new maps are from the saved ones.
    Of a film they are `VideoMaps`.

    Args:
        file: a `maps.json`, or the folder that holds it.
        session: an open session of the same model; it is opened by its name when None.
        device: where to open it.

    Raises:
        RerunError: when the file is missing or damaged, or does not tell all that it takes.
        ModelError: when its model cannot be opened.
    """
    path = _manifest_of(file)
    saved = Provenance.load(path)
    seed = _repeatable_seed(path, saved)
    from conceptlens.guidance import guidance_named
    from conceptlens.session import load

    run = saved.run
    if session is None:
        name = None if saved.model == "demo" else saved.model
        session = load(name, device=device, single_stream=bool(run.single_stream))
    elif session.model_id != saved.model:
        raise RerunError(f"{path} was made by {saved.model}, this session has {session.model_id}. Open {saved.model}.")
    background: tuple[str, ...] | bool = saved.background or False
    options: dict[str, Any] = dict(run.pipeline or {})
    if saved.recipe is not None:
        options = {**saved.recipe.to_dict(), **options}
    if run.task == "generate":
        if saved.recipe is not None:
            options["background"] = background
        if run.guidance:
            settings = {name: value for name, value in run.guidance.items() if name != "method"}
            options["guide"] = guidance_named(run.guidance["method"], settings)
        return session.generate(saved.prompt, saved.concepts, seed=seed, **options)
    source = path.parent / "image.png" if saved.frames is None else _film_beside(path, saved)
    record = session.read(source, prompt=saved.prompt, seed=seed, **options)
    return session.probe(record, saved.concepts, background=background)


def _repeatable_seed(path: Path, saved: Provenance) -> int:
    """The seed of a result that can be made again. Raises a `RerunError` for one that lacks something for it."""
    run = saved.run
    if run.method == "windows" or (saved.recipe is None and run.guidance is None):
        raise RerunError(f"{path} was made by the method {run.method!r}, not by a session. Run that method.")
    if saved.seed is None:
        raise RerunError(f"{path} has no seed: a generator or latents of the caller's own were used. Use seed=.")
    if run.batch:
        raise RerunError(f"{path} is one of a batch of {run.batch} pictures. Paint its prompt alone, then save.")
    image = "image.png" if saved.frames is None else "frame-000.png"
    if run.task != "generate" and not (path.parent / image).exists():
        raise RerunError(f"no {image} beside {path}, which was read. Keep the files of a result together.")
    return saved.seed


def _film_beside(path: Path, saved: Provenance) -> Clip:
    """The film that was read. Raises a `RerunError` where frames are missing."""
    from conceptlens.maps.picture_files import open_image
    from conceptlens.values.clips import Clip

    files = sorted(path.parent.glob("frame-*.png"))
    if len(files) != saved.frames or saved.rate is None:
        raise RerunError(
            f"{len(files)} of {saved.frames} frames are beside {path}. Keep the files of a result together."
        )
    return Clip(tuple(map(open_image, files)), saved.rate, tuple(saved.frame_numbers or ()))


def difference(maps: ConceptMaps | VideoMaps, file: str | Path) -> float:
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
