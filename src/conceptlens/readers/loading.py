"""Nothing, a folder, a hub id or a pipeline: to a pipeline with its adapter."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import torch
from diffusers import DiffusionPipeline

from conceptlens.families import adapter_for, registered
from conceptlens.families.base import ModelAdapter
from conceptlens.families.kinds.single_stream import SingleStreamAdapter
from conceptlens.readers.opening import PIPELINE_FILE, opening
from conceptlens.readers.weights import check_tokenizers
from conceptlens.values.errors import ModelError, one_line, shown
from conceptlens.values.models import Pipeline
from conceptlens.values.recipe import Recipe, check_counts
from conceptlens.values.words import check_concepts
from conceptlens.values.zoo import identity, located

DEFAULTS_FILE, USER_FOLDER = "conceptlens.json", "CONCEPTLENS_HOME"


@dataclass(frozen=True)
class Defaults:
    """What is known about the use of a model, from `conceptlens.json`: in its folder, or the user's own of it.

    Attributes:
        generate: keywords of the pipeline call, such as height, width and steps.
        recipe: fields of `Recipe` that replace the family's default.
        background: concepts that join a single concept; see `Session.generate`.
        vocabulary: the words that the model knows, where it knows few.
        presence: how scores become chances, measured for this model; see `conceptlens.presence`.
    """

    generate: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    background: tuple[str, ...] = ("background", "floor", "tree", "person", "grass", "face")
    vocabulary: tuple[str, ...] | None = None
    presence: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A pipeline that is ready to be read."""

    pipeline: Pipeline
    adapter: ModelAdapter
    model_id: str
    defaults: Defaults

    def concept_length(self, options: Mapping[str, Any]) -> int | None:
        """Tokens, padding included, at which concepts are encoded in a call with these options; None where unknown."""
        return self.adapter.concept_length(self.pipeline, options, self.defaults.generate.get("max_sequence_length"))


DEMO, DEMO_UNET = "demo", "demo-unet"
"""The names of the embedded models."""


def demo_folder(name: str = DEMO) -> Path:
    """An embedded model: an ordinary diffusers folder inside the package."""
    return Path(str(files("conceptlens") / "assets" / name))


def is_demo(model: object) -> bool:
    """Whether the embedded model is meant: None, or its name where no folder has it."""
    return model is None or (model == DEMO and not Path(DEMO).is_dir())


def load_model(
    model: object = None,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    offload: bool = False,
    single_stream: bool = False,
) -> LoadedModel:
    """Loads, or adopts, a pipeline.

    Args:
        model: None or "demo" (the embedded model), a folder, a hub id, or a loaded diffusers pipeline (used as it is;
            its device and dtype stay).
        device: "cuda", "cpu", ...; CUDA where there is one.
        dtype: bfloat16 on CUDA, float32 elsewhere.
        offload: keep on the GPU only the part that runs (`enable_model_cpu_offload`).
        single_stream: follow the single-stream blocks behind the dual-stream ones too, through the model's own code, as
            an experiment. Layers are counted through: of FLUX.1, 0 to 18 are dual-stream and 19 to 56 single-stream.

    Raises:
        ModelError: when it cannot be loaded or its family is not supported, or has no such blocks.
    """
    if (given := adopted(model)) is not None:
        return LoadedModel(given, _adapter(given, single_stream), pipeline_name(given), Defaults())
    embedded = is_demo(model)
    folder = demo_folder() if embedded else location_of(model)
    found = open_pipeline(folder, _check_supported, device=device, dtype=dtype, offload=offload)
    name = DEMO if embedded else found.model_id
    defaults = model_defaults(model, found.folder)
    return LoadedModel(found.pipeline, _adapter(found.pipeline, single_stream), name, defaults)


@dataclass(frozen=True)
class Opened:
    """A pipeline, what it is called, and its folder where it is one."""

    pipeline: Pipeline
    model_id: str
    folder: Path | None


def adopted(model: object) -> Pipeline | None:
    """A model that is a loaded pipeline already; None for what has to be opened."""
    return cast("Pipeline", model) if isinstance(model, DiffusionPipeline) else None


def pipeline_name(pipeline: Pipeline) -> str:
    """What a loaded pipeline was loaded from, or else its class."""
    return getattr(pipeline.config, "_name_or_path", "") or type(pipeline).__name__


def open_pipeline(
    model: str | Path,
    check: Callable[[str, Mapping[str, Any]], None],
    *,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
    offload: bool = False,
    half: torch.dtype = torch.bfloat16,
) -> Opened:
    """Loads a folder or a hub id, quietly.

    Args:
        model: the folder or hub id.
        check: is given the name and the content of model_index.json before any weight is fetched, and may refuse.
        device: see `load_model`; likewise `offload`.
        dtype: None: `half` on CUDA, float32 elsewhere.
        offload: see `device`.
        half: see `dtype`.

    Raises:
        ModelError: when it cannot be loaded, or `check` raised it.
    """
    chosen = device_of(device)
    dtype = dtype or (half if chosen.type == "cuda" else torch.float32)
    place = located(model)
    with opening(place, PIPELINE_FILE) as source:
        check(str(model), cast("dict[str, Any]", DiffusionPipeline.load_config(source)))
        pipeline = cast("Pipeline", DiffusionPipeline.from_pretrained(source, dtype=dtype))
        check_tokenizers(pipeline)
    pipeline.set_progress_bar_config(disable=True)
    if offload:
        pipeline.enable_model_cpu_offload(device=chosen)
    else:
        pipeline.to(chosen)
    return Opened(pipeline, identity(model), Path(place) if Path(place).is_dir() else None)


def device_of(device: str | torch.device | None) -> torch.device:
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ModelError(f"no device {device!r}. Use cpu, cuda, cuda:1, mps, ...") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"no device {str(chosen)!r}: this PyTorch sees no CUDA GPU. Use cpu.")
    return chosen


def _check_supported(source: str, index: Mapping[str, Any]) -> None:
    """Refuses a pipeline by its model_index.json, before any weight is fetched."""
    _, transformer = index.get("transformer") or (None, None)
    if transformer is None:
        raise ModelError(
            f"{source} ({index.get('_class_name', 'no pipeline')}) has no diffusion transformer. "
            "Use a FLUX.1 or Stable Diffusion 3 model, or another family with an adapter."
        )
    if transformer not in registered():
        raise ModelError(
            f"no adapter for {transformer} of {source}. Supported: {', '.join(sorted(registered()))}. "
            f"conceptlens.doctor({transformer!r}) tells why."
        )


@contextmanager
def resident(pipeline: Pipeline) -> Iterator[None]:
    """Keeps a model-offloaded transformer or U-Net on its device while parts of it are called without the whole."""
    model = getattr(pipeline, "transformer", None) or pipeline.unet
    hook = getattr(model, "_hf_hook", None)
    try:
        if hook is not None:
            hook.pre_forward(model)
        yield
    finally:
        if hook is not None:
            pipeline.maybe_free_model_hooks()


def classes_of(model: object) -> tuple[str, str]:
    """The classes of a pipeline and of the model in it that paints, before any weight is fetched.

    Args:
        model: see `load_model`; for what is no model, and for the embedded transformer, both are "".

    Raises:
        ModelError: for a folder or hub id that cannot be opened.
    """
    if isinstance(model, DiffusionPipeline):
        part = getattr(model, "transformer", None) or getattr(model, "unet", None)
        return type(model).__name__, type(getattr(part, "_orig_mod", part)).__name__
    if is_demo(model) or not isinstance(model, (str, Path)):
        return "", ""
    with opening(located(folder_of(model)), PIPELINE_FILE) as source:
        index: Any = DiffusionPipeline.load_config(source)
        parts = [index[part][1] for part in ("transformer", "unet") if index.get(part)]
        return str(index.get("_class_name")), str((parts or [None])[0])


def location_of(model: object) -> str | Path:
    """A model that is a folder or a hub id. Raises a `ModelError` for anything else."""
    if not isinstance(model, (str, Path)):
        raise ModelError(f"a model is a hub id, a folder or a diffusers pipeline; got {shown(model)}.")
    return model


def folder_of(model: str | Path) -> str | Path:
    """The embedded U-Net's folder for its name, where no folder has it; else the model itself."""
    return demo_folder(DEMO_UNET) if model == DEMO_UNET and not Path(DEMO_UNET).is_dir() else model


def _adapter(pipeline: Pipeline, single_stream: bool = False) -> ModelAdapter:
    transformer = getattr(pipeline, "transformer", None)
    if transformer is None:
        raise ModelError(
            f"{type(pipeline).__name__} has no diffusion transformer. Use a FLUX.1 model, or another with an adapter."
        )
    return SingleStreamAdapter(transformer) if single_stream else adapter_for(transformer)


def defaults_file(model: object) -> Path:
    """Where what was measured of a model is kept, and found when it is opened: see `load_model` for `model`.

    A folder has its own `conceptlens.json`. For a hub id, and an embedded model, the file is in `$CONCEPTLENS_HOME`, or
    else `conceptlens` in the user's cache.

    Raises:
        ModelError: for a loaded pipeline, which has no name that is sure to be its own.
    """
    name = DEMO if is_demo(model) else str(location_of(model))
    if not is_demo(model) and folder_of(name) == name and Path(place := located(name)).is_dir():
        return Path(place) / DEFAULTS_FILE
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "conceptlens"
    return Path(os.environ.get(USER_FOLDER) or cache) / quote(name, safe="") / DEFAULTS_FILE


def model_defaults(model: object, folder: Path | None) -> Defaults:
    """What the `conceptlens.json` of a model's folder says, and over it that of the user (see `defaults_file`)."""
    users = defaults_file(model)
    own = users if folder is None else folder / DEFAULTS_FILE
    said: dict[str, Any] = {}
    for path in (own, users) if own != users else (users,):
        if path.exists():
            said |= stored_defaults(path)
    return Defaults(**said)


def stored_defaults(path: Path) -> dict[str, Any]:
    """Fields of `Defaults` that a file holds. Raises a `ModelError` for a file that holds anything else."""
    try:
        return _checked(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"cannot use {path}: {one_line(error)}. Correct or remove it.") from error


def _checked(said: object) -> dict[str, Any]:
    """The same; raises a ValueError or TypeError for what cannot be defaults."""
    if not isinstance(said, dict):
        raise ValueError(f"it holds {said!r:.40}, not settings by name")
    for name in ("generate", "recipe", "presence"):
        if name in said and not isinstance(said[name], dict) and (said[name] is not None or name != "presence"):
            raise ValueError(f"its {name} is {said[name]!r:.40}, not settings by name")
    for name in ("background", "vocabulary"):
        if said.get(name) is not None:
            if not isinstance(said[name], list):
                raise ValueError(f"its {name} is {said[name]!r:.40}, not a list of words")
            said[name] = check_concepts(said[name]) if said[name] else ()
    Recipe().override(said.get("recipe", {}))
    check_counts(said.get("generate", {}))
    Defaults(**said)
    return said
