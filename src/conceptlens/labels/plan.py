"""LabelSpec: what to label and how, in plain values that travel to other processes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from conceptlens.bench.fidelity.prompts import read_prompts
from conceptlens.labels.gates import Gates
from conceptlens.values.errors import ConceptlensError, RecipeError, one_line
from conceptlens.values.pictures import PICTURES
from conceptlens.values.recipe import RECIPE_FIELDS, check_preset, check_seed
from conceptlens.values.words import check_concepts, content_words

_OF_READING = ("noise", "samples")


class LabelError(ConceptlensError, ValueError):
    """Prompts or pictures that cannot be labelled."""


@dataclass(frozen=True)
class LabelSpec:
    """What to label: prompts that are painted, or a folder of pictures.

    Attributes:
        prompts: to paint; none for a folder.
        images: the folder, with a path for each id in `pictures`.
        pictures: by id the path within the folder; ids are paths without their ending, where that is enough.
        captions: by id the text beside a picture, in a folder that is labelled without `words`.
        words: what to look for in each picture; None for the things that its prompt or its caption names.
        while_painting: maps of a painting are those made while it was painted, in place of those of a reading of the
            finished picture, which overlap better with true masks; also for models that cannot read pictures.
        per_prompt: pictures painted for each prompt, from different seeds.
        model: hub id or folder; the embedded model when None.
        device: "cuda", "cpu", ...
        seed: of all noise; each picture adds its own.
        preset: of the maps.
        options: fields of `Recipe`, and for paintings keywords of the pipeline.
        background: words that compete with those for every pixel and become no labels. True: the model's usual ones;
            False: none, so that each pixel goes to one of the words.
        gates: what a label must pass.
        edges: masks end at the edges of the picture.
        abstain: share of the pixels, the most doubtful, that get no label.
    """

    prompts: tuple[str, ...] = ()
    images: str | None = None
    pictures: Mapping[str, str] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)
    words: tuple[str, ...] | None = None
    while_painting: bool = False
    per_prompt: int = 1
    model: str | None = None
    device: str | None = None
    seed: int = 0
    preset: str | None = "sharp"
    options: Mapping[str, Any] = field(default_factory=dict)
    background: tuple[str, ...] | bool = True
    gates: Gates = field(default_factory=Gates)
    edges: bool = False
    abstain: float = 0.0

    def __post_init__(self) -> None:
        """Raises the library's errors for settings that no model could serve."""
        if self.words is not None:
            check_concepts(self.words)
        if not isinstance(self.background, bool):
            check_concepts(self.background)
        check_preset(self.preset)
        check_seed(self.seed)
        if not 0 <= self.abstain < 1:
            raise RecipeError(f"abstain is a share of the pixels, from 0 to below 1; got {self.abstain}.")
        if self.per_prompt < 1:
            raise RecipeError(f"at least one picture is painted for each prompt; got {self.per_prompt}.")
        if "num_images_per_prompt" in self.options:
            raise RecipeError("num_images_per_prompt would give pictures of one seed. Set the pictures per prompt.")

    @property
    def paints(self) -> bool:
        """Whether pictures are painted, or else read from a folder."""
        return self.images is None

    @property
    def reading(self) -> dict[str, Any]:
        """Options of a reading among `options`."""
        return {name: value for name, value in self.options.items() if name in RECIPE_FIELDS and name != "steps"}

    @property
    def painting(self) -> dict[str, Any]:
        """Options of a painting among `options`."""
        return {name: value for name, value in self.options.items() if name not in _OF_READING}

    def ids(self) -> list[str]:
        """One for each picture: prompts in their order, then pictures of a prompt; or pictures by their paths."""
        if not self.paints:
            return list(self.pictures)
        return [f"{number:06d}-{again}" for number in range(len(self.prompts)) for again in range(self.per_prompt)]

    def text(self, id_: str) -> str:
        """The prompt of a painting, or the caption of a picture; empty for one without."""
        return self.prompts[int(id_.partition("-")[0])] if self.paints else self.captions.get(id_, "")

    def words_of(self, id_: str) -> tuple[str, ...] | None:
        """What to look for in a picture; None for what the prompt of a painting names."""
        return self.words if self.paints or self.words is not None else tuple(content_words(self.captions[id_]))

    def source(self) -> dict[str, Any]:
        """What is labelled, as settings of the run; texts by a fingerprint, since there can be very many."""
        if self.paints:
            return {"prompts": _fingerprint(self.prompts), "per_prompt": self.per_prompt}
        captions = {} if self.words is not None else {"captions": _fingerprint(tuple(self.captions.values()))}
        return {"images": self.images, **captions}


def read_plan(prompts: Path | None, images: Path | None, out: Path, spec: LabelSpec) -> LabelSpec:
    """The same settings with what a user names: a file of prompts, or a folder of pictures.

    Without `words`, each picture of the folder needs a caption beside it: `cat.txt` for `cat.png`.

    Raises:
        LabelError: for both or neither, a folder without pictures or captions, or one that `out` is in, or that
            is in `out`.
        FidelityError: for a file without prompts.
        RecipeError: for settings of a painting beside a folder.
    """
    if (prompts is None) == (images is None):
        got = "neither" if prompts is None else "both"
        raise LabelError(f"a file of prompts or a folder of pictures is labelled; got {got}. Give one of them.")
    if prompts is not None:
        return replace(spec, prompts=tuple(row["prompt"] for row in read_prompts(prompts)))
    assert images is not None
    _refuse_painting(spec)
    inside, outside = images.resolve(), out.resolve()
    if inside.is_relative_to(outside) or outside.is_relative_to(inside):
        raise LabelError(f"{out} and the pictures in {images} share a folder: labelling would mix them. Choose --out.")
    pictures = _pictures(images)
    captions = _captions(images, pictures) if spec.words is None else {}
    return replace(spec, images=str(images), pictures=pictures, captions=captions)


def _refuse_painting(spec: LabelSpec) -> None:
    extra = sorted(set(spec.options) - set(spec.reading))
    extra += ["per_prompt"] if spec.per_prompt != 1 else []
    extra += ["while_painting"] if spec.while_painting else []
    if extra:
        raise RecipeError(f"{', '.join(extra)}: of painting, and pictures of a folder are only read. Leave it out.")


def _pictures(folder: Path) -> dict[str, str]:
    found: Sequence[Path] = ()
    if folder.is_dir():
        found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    if not found:
        raise LabelError(f"no pictures in {folder}. Name a folder with files that end in {', '.join(PICTURES)}.")
    stems = Counter(path.with_suffix("").as_posix() for path in found)
    shared = {path: stems[path.with_suffix("").as_posix()] > 1 for path in found}
    return {(path if shared[path] else path.with_suffix("")).as_posix(): path.as_posix() for path in found}


def _captions(folder: Path, pictures: Mapping[str, str]) -> dict[str, str]:
    captions = {}
    for id_, picture in pictures.items():
        path = (folder / picture).with_suffix(".txt")
        try:
            captions[id_] = path.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or one_line(error)
            raise LabelError(
                f"no caption in {path} ({reason}). Write one beside each picture, or give words."
            ) from error
    return captions


def _fingerprint(texts: Sequence[str]) -> str:
    """How many texts, and 12 hexadecimal digits of them."""
    return f"{len(texts)} ({hashlib.sha256(chr(10).join(texts).encode()).hexdigest()[:12]})"
