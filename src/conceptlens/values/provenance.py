"""How a result came about: what its maps.json says of it, defined here alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from conceptlens._version import package_version
from conceptlens.values.errors import ConceptlensError, one_line
from conceptlens.values.recipe import Recipe, check_choice, check_seed

Task = Literal["generate", "read"]
Plain = str | int | float | bool | None


class RerunError(ConceptlensError, ValueError):
    """A saved result cannot be repeated."""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """The computation behind maps: who made them, on what, in which setting. None where a field does not apply.

    Attributes:
        task: whether the picture was painted ("generate") or given ("read").
        method: the method that made the maps; None for a concept stream, whose settings are a `Recipe`.
        family: the kind of model.
        single_stream: single-stream blocks were followed too.
        caveat: what is not validated about maps of this family.
        settings: of `method`, as plain JSON values.
        tokens: by concept its pieces, or the positions of its tokens in the text.
        text_length: tokens, padding included, at which the concepts were encoded.
        dtype: of the image model, such as "bfloat16".
        device: where it ran.
        seconds: how long it took.
        versions: of conceptlens and of the libraries that did the work.
        pipeline: keywords of the pipeline's call, those with plain values.
        steps: denoising steps that painted the picture.
        batch: pictures in the call, if there were several.
        guidance: settings of the guidance, "method" among them; empty (null in a file) for a U-Net's picture that was
            painted without, which tells it from the result of a method.
        losses: for each guided step its number, then the loss before each update; None for an update that was not
            needed.
        attribution: the text in which words were looked up (OVAM).
        timestep: of the noise at which a U-Net read the picture.
        kept: concepts that each round kept (CLIP as RNN).
    """

    task: Task | None = None
    method: str | None = None
    family: str | None = None
    single_stream: bool | None = None
    caveat: str | None = None
    settings: Mapping[str, Any] | None = None
    tokens: Mapping[str, Sequence[str] | Sequence[int]] | None = None
    text_length: int | None = None
    dtype: str | None = None
    device: str | None = None
    seconds: float | None = None
    versions: Mapping[str, str] | None = None
    pipeline: Mapping[str, Any] | None = None
    steps: int | None = None
    batch: int | None = None
    guidance: Mapping[str, Any] | None = None
    losses: Sequence[Sequence[float | int | None]] | None = None
    attribution: str | None = None
    timestep: float | int | None = None
    kept: Sequence[Sequence[str]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values of the fields that apply, in their order."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        told = {n: dict(v) if isinstance(v, Mapping) else v for n, v in values.items() if v is not None}
        return told if self.guidance is None else {**told, "guidance": told["guidance"] or None}


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Everything that is needed to make maps again.

    Attributes:
        model: hub id or folder of the model; "demo" for the embedded one.
        prompt: what it was told about the picture.
        concepts: those that were asked for.
        background: concepts that competed without being asked for.
        seed: of the noise; None if the caller brought a generator or latents.
        recipe: settings of the concept stream; None for a method without one.
        grid: shape of the scores: (rows, cols), of a video (frames, rows, cols).
        edges: see `ConceptMaps`; likewise `abstain` and `presence`.
        abstain: see `edges`.
        presence: see `edges`.
        run: the computation.
        frames: pictures of a film; None for a picture.
        rate: of them per second; None for a picture.
        frame_numbers: which frames of the given film these are, from 0; None for all of them, or the first ones.
    """

    model: str
    prompt: str
    concepts: tuple[str, ...]
    background: tuple[str, ...]
    seed: int | None
    recipe: Recipe | None
    grid: tuple[int, ...] = ()
    edges: bool = False
    abstain: float = 0.0
    presence: Mapping[str, float | None] | None = None
    run: RunInfo = field(default_factory=RunInfo)
    frames: int | None = None
    rate: float | None = None
    frame_numbers: Sequence[int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as they stand in a maps.json."""
        return {
            "model": self.model,
            "prompt": self.prompt,
            "concepts": list(self.concepts),
            "background": list(self.background),
            "seed": self.seed,
            "recipe": None if self.recipe is None else self.recipe.to_dict(),
            "grid": list(self.grid),
            "edges": self.edges,
            "abstain": self.abstain,
            **({} if self.presence is None else {"presence": dict(self.presence)}),
            **self.run.to_dict(),
            **({} if self.frames is None else {"frames": self.frames}),
            **({} if self.rate is None else {"rate": self.rate}),
            **({} if self.frame_numbers is None else {"frame_numbers": list(self.frame_numbers)}),
        }

    @classmethod
    def load(cls, path: Path) -> Provenance:
        """Reads a maps.json, also one of an earlier version: settings that came later have the value they had then.

        Raises:
            RerunError: when the file is missing or damaged, or lacks what every result says of itself.
        """
        told = _read(path)
        missing = [name for name in _NEEDED if name not in told]
        if missing:
            raise RerunError(f"{path} does not tell {missing[0]!r}. Save the maps again.")
        for name in _KINDS:
            if name in told and not _is_of(name, told[name]):
                raise _damaged(path, f"its {name} is {told[name]!r:.40}")
        try:
            return _from_json(told)
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path, one_line(error)) from error


_NONE = type(None)
_TEXT, _COUNT, _NUMBER, _TABLE = (str, _NONE), (int, _NONE), (int, float, _NONE), (dict, _NONE)
_KINDS: dict[str, tuple[type, ...]] = {
    "model": (str,), "task": (str,), "prompt": (str,), "concepts": (list,), "background": (list, _NONE),
    "recipe": _TABLE, "seed": _COUNT, "guidance": _TABLE, "batch": _COUNT, "single_stream": (bool, _NONE),
    "edges": (bool,), "abstain": (int, float), "presence": _TABLE, "grid": (list,), "frames": _COUNT,
    "rate": _NUMBER, "frame_numbers": (list, _NONE),
    "method": _TEXT, "family": _TEXT, "caveat": _TEXT, "settings": _TABLE, "tokens": _TABLE, "text_length": _COUNT,
    "dtype": _TEXT, "device": _TEXT, "seconds": _NUMBER, "versions": _TABLE, "steps": _COUNT,
    "losses": (list, _NONE), "attribution": _TEXT, "timestep": _NUMBER, "kept": (list, _NONE),
}  # fmt: skip
_NEEDED = ("model", "task", "prompt", "concepts", "background", "recipe", "seed")


_LISTS_OF_TEXTS = ("concepts", "background")


def _is_of(name: str, value: object) -> bool:
    """Whether a JSON value has a type that its key takes; `true` is no number."""
    kinds = _KINDS[name]
    if name in _LISTS_OF_TEXTS and isinstance(value, list) and not all(isinstance(each, str) for each in value):
        return False
    return isinstance(value, kinds) and (bool in kinds or value is not True)


def _from_json(told: Mapping[str, Any]) -> Provenance:
    """Raises `KeyError`, `TypeError` or `ValueError` for values that no result has."""
    if told["seed"] is not None:
        check_seed(told["seed"])
    check_choice("task", told["task"], Task)
    info = {each.name: told[each.name] for each in fields(RunInfo) if each.name in told}
    if info.get("pipeline") is not None:
        info["pipeline"] = dict(info["pipeline"] or {})
    if "guidance" in info:
        info["guidance"] = info["guidance"] or {}
    if info.get("guidance"):
        str(info["guidance"]["method"])
    return Provenance(
        model=told["model"],
        prompt=told["prompt"],
        concepts=tuple(told["concepts"]),
        background=tuple(told["background"] or ()),
        seed=told["seed"],
        # Fields that are missing have the values of `Recipe`, which is what was done before there were such fields,
        # and not those of the model's preset.
        recipe=None if told["recipe"] is None else Recipe().override(told["recipe"]),
        grid=tuple(told.get("grid", ())),
        edges=told.get("edges", False),
        abstain=told.get("abstain", 0.0),
        presence=told.get("presence"),
        run=RunInfo(**info),
        frames=told.get("frames"),
        rate=told.get("rate"),
        frame_numbers=told.get("frame_numbers"),
    )


def _damaged(path: Path, why: str) -> RerunError:
    return RerunError(f"{path} is damaged ({why}). Save the maps again.")


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


def plain_values(keywords: Mapping[str, object]) -> dict[str, Plain]:
    """Those keywords whose values are plain JSON values: no generators, tensors or callbacks."""
    return {name: value for name, value in keywords.items() if isinstance(value, Plain)}


def versions_of(*libraries: str) -> dict[str, str]:
    """The installed versions of conceptlens and of some libraries."""
    return {name: package_version(name) for name in ("conceptlens", *libraries)}
