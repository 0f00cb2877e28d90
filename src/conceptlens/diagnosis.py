"""Doctor: can the method see into a model, with what and at what cost; if not, why, and what to use instead."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from conceptlens.families import adapter_for, group_of, known_classes, registered
from conceptlens.families.base import DiTAdapter, ModelAdapter
from conceptlens.families.cross import cross_layouts
from conceptlens.families.groups import UNET, UNET_METHOD
from conceptlens.families.kinds.cross_attention import METHOD
from conceptlens.readers.loading import (
    DEMO_UNET,
    Defaults,
    LoadedModel,
    demo_folder,
    is_demo,
    load_model,
    model_defaults,
)
from conceptlens.readers.opening import MODEL_FILE, PIPELINE_FILE, opening
from conceptlens.readers.pictures import Reading
from conceptlens.readers.reading import read
from conceptlens.readers.weights import cause, damaged_file
from conceptlens.values import listings
from conceptlens.values.errors import ConceptlensError, ModelError, one_line, shown
from conceptlens.values.models import Model, Pipeline
from conceptlens.values.recipe import Recipe
from conceptlens.values.zoo import located

SMALL = 2 * 2**30
"""A folder with weights up to this many bytes is loaded and tried itself."""
OWN_TEXT_BAR = 1e-5
"""Bar for the own text in float32."""
TIERS = {
    "adapter": "concepts cost about a hundredth of a step",
    "re-entry": "the model's own blocks run once more for the concepts, so that a step costs about twice as much",
    "experimental": "as re-entry; the mechanism is proven, the quality of the maps is not validated on real weights",
}
"""How a model is served, and what that means to its users."""
_TOKEN_SIDE = 16  # pixels of a token of all families: an autoencoder of 8, patches of 2


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found.

    Attributes:
        model: what was asked about.
        transformer: its transformer class.
        adapter: the family that serves it; None if there is none.
        tier: how it is served: "adapter", "re-entry", "experimental"; None if not at all.
        group: how the class treats text.
        applies: whether the method can run in such a model at all.
        reason: why, or why not.
        instead: what to do instead; empty where all is well.
        blocks: the number of its blocks that carry a text stream; None where unknown.
        recipe: the family's default, with concrete layers.
        tried_on: what the dry run ran on.
        own_text_error: how far the model's own text, sent through as concepts, came out from what the model made of it,
            relative to its largest value; None where that was not tried.
        text_length: tokens, padding included, at which concepts are encoded; None where unknown.
        text_length_fixed: whether every call uses that length, even one that gives another.
        method: where concept attention does not work, the method that reads it; None where there is none.
        lacking: parts of a folder that have a config.json and no weights; then only the configs are examined.
        captured: blocks that the dry run saw, of `expected`.
        expected: see `captured`.
        size: (height, width) in pixels that the memory figures are for.
        tokens: image tokens at that size.
        live_bytes: what one block holds while maps are made in passing.
        record_bytes: what a reading keeps in one step, for later probing.
    """

    model: str
    transformer: str
    adapter: str | None
    group: str
    applies: bool
    reason: str
    instead: str = ""
    blocks: int | None = None
    recipe: Recipe | None = None
    tried_on: str = "nothing"
    captured: int = 0
    expected: int = 0
    size: tuple[int, int] = (0, 0)
    tokens: int = 0
    live_bytes: int = 0
    record_bytes: int = 0
    tier: str | None = None
    own_text_error: float | None = None
    method: str | None = None
    lacking: tuple[str, ...] = ()
    text_length: int | None = None
    text_length_fixed: bool = False

    @property
    def ok(self) -> bool:
        """Whether concept attention works on this model; where not, `method` and `instead` say what does."""
        seen = self.adapter is not None and self.captured == self.expected > 0
        return seen and (self.own_text_error is None or self.own_text_error < OWN_TEXT_BAR)

    def describe(self) -> str:
        """A few lines for people."""
        lines = [f"{self.model}: {self._verdict()}", f"transformer  {self.transformer}"]
        lines.append(f"group        {self.group}: {self.reason}")
        layers = () if self.recipe is None else self.recipe.layers or ()
        if layers:
            lines.append(f"adapter      {self.adapter}, {self.blocks} blocks, maps from {layers[0]} to {layers[-1]}")
            lines.append(f"tier         {self.tier}: {TIERS[self.tier or '']}")
            if registered()[self.transformer].all_blocks is not None:
                lines.append("more blocks  the single-stream ones with single_stream=True, as an experiment")
            if self.lacking:
                lines.append(f"weights      none in {', '.join(self.lacking)}, so only the configs were examined")
            lines.append(f"dry run      {self.captured} of {self.expected} blocks seen, on {self.tried_on}")
            if self.text_length is not None:
                usual = "whatever the prompt's length" if self.text_length_fixed else "unless the prompt has another"
                lines.append(f"text         concepts are encoded at {self.text_length} tokens, {usual}")
            if self.own_text_error is not None:
                lines.append(f"own text     reproduced to {self.own_text_error:.0e} (bar {OWN_TEXT_BAR:.0e})")
            lines.append(
                f"memory       at {self.size[0]}x{self.size[1]}, {self.tokens} tokens: {_size(self.live_bytes)} while "
                f"painting, {_size(self.record_bytes)} for the record of one reading"
            )
        if self.instead:
            lines.append(f"instead      {self.instead}")
        return "\n".join(lines)

    def _verdict(self) -> str:
        if self.ok:
            return "maps work"
        if self.transformer in UNET.unserved:
            return "maps of the prompt's words as it paints, and of any words in a picture"
        return "maps of any words in a picture, by its cross attention" if self.method else "no maps"


@torch.no_grad()
def doctor(model: object, *, height: int = 1024, width: int = 1024, frames: int = 1) -> Diagnosis:
    """Examines a model before anything is painted.

    Args:
        model: a loaded pipeline, a folder, a hub id, or the name of a transformer class. The weights of a folder beyond
            `SMALL`, of a hub id or of a class are not opened: the dry run is then that of the tests of this release, on
            tiny random weights of the class.
        height: of the picture for the memory figures, in pixels.
        width: see `height`.
        frames: latent frames, for a video model.

    Raises:
        ModelError: when there is no such folder, hub id or class.
    """
    subject = _identify(model)
    name, transformer_name, pipeline = subject.name, subject.transformer, subject.pipeline
    group, known = group_of(transformer_name), registered().get(transformer_name)
    if known is None:
        reason = f"{group.reason}; no adapter" if group.applies else group.reason
        method = METHOD if transformer_name in cross_layouts() else UNET_METHOD if group is UNET else None
        return Diagnosis(
            *(name, transformer_name, None, group.name, group.applies, reason, group.instead), method=method
        )
    adapter = adapter_for(_skeleton(subject) if pipeline is None else pipeline.transformer)
    depth = len(adapter.blocks())
    recipe = adapter.recipe(depth).override(dict(subject.defaults.recipe)).resolve(depth)
    side = _TOKEN_SIDE if pipeline is None else adapter.side_multiple(pipeline)
    tokens = max(1, height // side) * max(1, width // side) * frames
    stated = subject.defaults.generate.get("max_sequence_length")
    live_bytes, record_bytes = _memory(
        adapter, recipe, tokens, 2 if pipeline is None else adapter.transformer.dtype.itemsize
    )
    diagnosis = Diagnosis(
        *(name, transformer_name, adapter.name, group.name, True, group.reason),
        blocks=depth,
        recipe=recipe,
        expected=recipe.layers[-1] + 1 if recipe.layers else 0,
        size=(height, width),
        tokens=tokens,
        live_bytes=live_bytes,
        record_bytes=record_bytes,
        text_length=adapter.concept_length(pipeline, {}, stated),
        text_length_fixed=adapter.concept_length(None, {}, stated) is not None,
        tier="adapter" if isinstance(adapter, DiTAdapter) else "experimental" if adapter.caveat else "re-entry",
        lacking=subject.lacking,
    )
    return _tested(diagnosis) if pipeline is None else _tried(diagnosis, adapter, pipeline)


def served() -> tuple[str, ...]:
    """Names of all transformer classes that maps can be made of, those with a hand-written adapter first."""
    known = registered()
    return tuple(sorted(known, key=lambda name: (not issubclass(known[name], DiTAdapter), name)))


@dataclass(frozen=True)
class _Subject:
    """A model's name, its transformer class with its settings, and what its folder has.

    Attributes:
        name: of the model.
        transformer: name of the class.
        config: its settings; none where only the class is known.
        pipeline: where it is loaded.
        defaults: what the folder's `conceptlens.json` says.
        lacking: see `Diagnosis`.
    """

    name: str
    transformer: str
    config: Mapping[str, Any] = field(default_factory=dict)
    pipeline: Any = None
    defaults: Defaults = field(default_factory=Defaults)
    lacking: tuple[str, ...] = ()


def _identify(model: object) -> _Subject:
    if isinstance(model, DiffusionPipeline):
        part = getattr(model, "transformer", None) or getattr(model, "unet", None)
        if part is None:
            raise ModelError(f"{type(model).__name__} has no transformer. Give a text-to-image or -video pipeline.")
        return _Subject(type(model).__name__, type(getattr(part, "_orig_mod", part)).__name__, part.config, model)
    if not is_demo(model) and not isinstance(model, (str, Path)):
        raise ModelError(f"a model is a hub id, a folder, a class or a diffusers pipeline; got {shown(model)}.")
    folder = demo_folder() if is_demo(model) else Path(located(str(model)))
    if folder.is_dir() and str(model):
        return _identify_folder(folder)
    if str(model) == DEMO_UNET:
        return _identify_folder(demo_folder(DEMO_UNET))
    kind = getattr(diffusers, str(model), None)
    if isinstance(kind, type) and issubclass(kind, DiffusionPipeline):
        raise ModelError(f"{model} is a pipeline. Give an open one, or the class of its transformer.")
    if kind is not None:
        return _Subject(str(model), str(model))
    _refuse_misspelt(str(model))
    try:
        with opening(str(model), PIPELINE_FILE) as source:
            index: Any = DiffusionPipeline.load_config(source)
            part, name = _painter(index)
            return _Subject(str(model), name, getattr(diffusers, name).load_config(source, subfolder=part))
    except ModelError as error:
        if "/" in str(model):
            raise
        raise ModelError(f"{str(model)!r} is no transformer class of diffusers, and no hub id: {error}") from error


def _painter(index: object) -> tuple[str, str]:
    """The part of a pipeline that paints, and its class, by the content of model_index.json."""
    for part in ("transformer", "unet"):
        entry = index.get(part) if isinstance(index, Mapping) else None
        if isinstance(entry, (list, tuple)) and len(entry) == 2 and isinstance(entry[1], str):
            return part, entry[1]
    raise ValueError(f"{PIPELINE_FILE} names no class of a transformer or U-Net")


def _refuse_misspelt(name: str) -> None:
    """Raises a `ModelError` for what looks like a class of diffusers, before the hub is asked for it."""
    known = {known.lower(): known for known in known_classes()}
    near = get_close_matches(name.lower(), known, n=1, cutoff=0.8) or [k for k in known if k.startswith(name.lower())]
    if not name.strip():
        raise ModelError("no model was named. Give a hub id, a folder or a transformer class.")
    if "/" not in name and near:
        raise ModelError(f"{name!r} is no transformer class of diffusers. Did you mean {known[near[0]]}?")


def _identify_folder(folder: Path) -> _Subject:
    index, part = folder / PIPELINE_FILE, ""
    try:
        if index.exists():
            part, name = _painter(json.loads(index.read_text(encoding="utf-8")))
            config = json.loads((folder / part / MODEL_FILE).read_text(encoding="utf-8"))
        else:
            config = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
            name = config["_class_name"] + ""
        config = {**config}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        fault = damaged_file(folder)
        if fault is not None:
            raise ModelError(f"{fault}. Save or download it again.") from error
        raise ModelError(
            f"{folder} is no folder of a pipeline or a transformer ({cause(error)}). Name the folder that has "
            f"{PIPELINE_FILE} or the transformer's {MODEL_FILE}."
        ) from error
    if not part:
        return _Subject(folder.name, name, config)
    lacking = tuple(path.parent.name for path in sorted(folder.glob(f"*/{MODEL_FILE}")) if not _weights(path.parent))
    small = name in registered() and sum(path.stat().st_size for path in _weights(folder)) <= SMALL
    pipeline = load_model(folder, device="cpu").pipeline if small and not lacking else None
    return _Subject(folder.name, name, config, pipeline, model_defaults(folder, folder), lacking)


def _weights(folder: Path) -> list[Path]:
    """All files of weights in a folder and below it."""
    return [path for path in folder.rglob("*") if path.suffix in (".safetensors", ".bin") and path.is_file()]


def _skeleton(subject: _Subject) -> Model:
    """The transformer without weights, in its full depth; a class without defaults is given the tests' settings."""
    name, kind = subject.transformer, getattr(diffusers, subject.transformer)
    known = inspect.signature(kind.__init__).parameters
    given = {key: value for key, value in subject.config.items() if key in known} or listings.required_settings(name)
    try:
        with torch.device("meta"):
            return kind(**given)
    except Exception as error:  # a class raises anything for settings of the wrong kind
        raise ModelError(
            f"the {MODEL_FILE} of {subject.name} describes no {name}: {cause(error)}. Correct it, or save it again."
        ) from error


def _memory(adapter: ModelAdapter, recipe: Recipe, tokens: int, itemsize: int) -> tuple[int, int]:
    """Bytes of one block's record, and of all records that a reading keeps: keys, values, and outputs where wanted."""
    assert recipe.layers is not None
    reach, wanted = recipe.layers[-1] + 1, len(recipe.layers)
    config = adapter.transformer.config
    width = getattr(config, "hidden_size", None) or getattr(config, "dim", None)
    width = width or config.num_attention_heads * config.attention_head_dim
    vector = tokens * width * itemsize
    if isinstance(adapter, DiTAdapter):
        return 3 * vector, vector * (2 * reach + wanted)
    return vector * (reach + wanted), vector * (reach + wanted)


def _tested(diagnosis: Diagnosis) -> Diagnosis:
    """The diagnosis with the dry run of the tests, which examine every class on tiny random weights."""
    tested = listings.tested(diagnosis.transformer)
    if tested is None:
        return replace(
            diagnosis,
            tried_on="nothing, since the class is not among those that the tests examine",
            instead="Load the pipeline and ask again with it.",
        )
    versions = listings.versions()
    return replace(
        diagnosis,
        tried_on=f"tiny random weights, in the tests of conceptlens {versions['conceptlens']} "
        f"(diffusers {versions['diffusers']})",
        **{name: tested[name] for name in ("captured", "expected", "own_text_error")},
    )


def _tried(diagnosis: Diagnosis, adapter: ModelAdapter, pipeline: Pipeline) -> Diagnosis:
    """The diagnosis after a dry run: a blank picture through the pipeline."""
    recipe = diagnosis.recipe
    assert recipe is not None
    diagnosis = replace(diagnosis, tried_on="the model itself")
    side = adapter.side_multiple(pipeline)
    blank = Image.new("RGB", (6 * side, 4 * side))
    options = {"max_sequence_length": 64}
    small = Defaults(generate={"width": blank.width, "height": blank.height})
    model = LoadedModel(pipeline, adapter, diagnosis.model, small)
    try:
        (layers,) = read(model, [Reading(blank, "", 0)], recipe, options)
    except ConceptlensError as error:
        return replace(diagnosis, reason=one_line(error), instead="Do what the line above says, then ask again.")
    return replace(diagnosis, captured=len(layers))


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**28 else f"{count / 2**20:.1f} MiB"
