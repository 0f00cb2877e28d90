"""Protocols: every choice between a map and a number, by name. Two protocols never share a column.

`paper` repeats the official scripts of ConceptAttention (arXiv 2502.04320), mistakes included; `fixed` is what we hold
to be right; `chefer` is what the upstream papers of the rows "LRP" to "TransInterp" did (Chefer et al., CVPR 2021), and
`gandelsman` what that of the row "TextSpan" did (Gandelsman et al., ICLR 2024), save that the class is the true one.
`gt-prompt`, `full-vocab` and `bg-threshold` ask more questions of multi-class data, as work on open vocabularies does:
with the true classes given to the model in the prompt; with every class of the dataset as a candidate; and so where
there is a background, with a threshold for it in place of words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from conceptlens.bench.counts import BinaryIoU, Void
from conceptlens.bench.datasets.base import VOID, Dataset, Sample, Task
from conceptlens.values.errors import ConceptlensError

AP = Literal["pooled-minmax", "pooled-raw", "foreground", "none"]
_IMAGENET_DISTRACTORS = ("background", "floor", "tree", "person", "grass", "face")
BACKGROUND_BELOW = 0.5
"""Fixed in advance: the best of several thresholds would be chosen on the data that it is judged on."""
_VOC_DISTRACTORS = ("background", "floor", "grass", "tree", "sky")


class ProtocolError(ConceptlensError, ValueError):
    """A protocol is unknown or does not fit the data."""


class Concept(NamedTuple):
    """A word to ask for, and what it stands for.

    Attributes:
        name: the word.
        number: its place in the dataset's `classes`; -1 for a distractor.
    """

    name: str
    number: int


@dataclass(frozen=True)
class Protocol:
    """How images become maps and maps become numbers.

    Attributes:
        name: of the protocol; a report never mixes two.
        task: "single" (one target against the rest) or "multi" (classes).
        distractors: concepts that compete and count as background.
        distractors_first: they stand before the targets in the list of concepts, else after them.
        candidates: the classes asked for: those "present" in the image, or "all" of the dataset.
        prompt: what the model's prompt says about the image: nothing, "a {target}", or all present classes.
        image_size: images are squeezed to this square before the method sees them; None: as they are.
        image_filter: how.
        label_size: labels and scores are compared at this square; None: at the labels' own size.
        score_filter: how scores get there.
        blur: a Gaussian of sigma 1 over 3x3 cells of the native map, before anything else.
        center: the mean over the concepts is subtracted from their scores, cell by cell.
        clip: scores below 0 become 0 at the label size, before they are stretched (single).
        stretch: scores are moved to 0..1 per map, at the label size, before the threshold.
        mask: "mean": strictly above the map's mean, at the native grid unless stretched; "argmax" over the concepts.
        void_accuracy: void pixels are "ignored", or counted as "wrong" (see `BinaryCounts.accuracy`).
        void_in_union: predictions on void pixels count against the class (multi).
        iou: "standard", or the degenerate "paired" (see `BinaryCounts.iou`).
        ap: which average precision is the headline.
        background_below: a pixel is background where the map of its winner, stretched to 0..1 over the picture, is
            not above this (multi, with a background); None: where a distractor wins.
        relabel: "lookup", or "sequential": the official in-place renumbering, which renumbers some classes twice.
        options: settings of the method that the protocol fixes.
    """

    name: str
    task: Task
    distractors: tuple[str, ...] = ()
    distractors_first: bool = False
    candidates: Literal["present", "all"] = "present"
    prompt: Literal["none", "target", "present"] = "none"
    image_size: int | None = None
    image_filter: Literal["bicubic", "nearest"] = "bicubic"
    label_size: int | None = None
    score_filter: Literal["bilinear", "nearest"] = "bilinear"
    blur: bool = False
    center: bool = False
    clip: bool = False
    stretch: bool = False
    mask: Literal["mean", "argmax"] = "mean"
    void_accuracy: Void = "ignored"
    void_in_union: bool = False
    iou: BinaryIoU = "standard"
    ap: AP = "pooled-minmax"
    background_below: float | None = None
    relabel: Literal["lookup", "sequential"] = "lookup"
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `background_below` where it is set, so that runs stored before there was one can go on."""
        plain = asdict(replace(self, options={}))
        if self.background_below is None:
            del plain["background_below"]
        return {**plain, "distractors": list(self.distractors), "options": dict(self.options)}

    def concepts(self, sample: Sample, classes: tuple[str, ...], *, background: bool = False) -> tuple[Concept, ...]:
        """The concepts to ask for in one image, distractors included: all but those that are a class to ask for.

        Args:
            sample: the image.
            classes: names of the dataset's labels.
            background: class 0 is a background, which has no name to ask for.
        """
        numbers = range(int(background), len(classes)) if self.candidates == "all" else sample.present
        asked = [Concept(classes[number], number) for number in numbers]
        names = {concept.name for concept in asked}
        others = [Concept(name, VOID) for name in self.distractors if name not in names]
        return (*others, *asked) if self.distractors_first else (*asked, *others)

    def caption(self, sample: Sample, classes: tuple[str, ...]) -> str:
        """The prompt that goes with the image."""
        if self.prompt == "none":
            return ""
        return ",".join(f"a {classes[number]}" for number in sample.present)


def _single(streams: bool, *, voc: bool, distractors: tuple[str, ...]) -> dict[str, Protocol]:
    """Protocols of one target per image.

    Args:
        streams: the method reads a diffusion transformer's concept stream.
        voc: the dataset is PascalVOC, for which the official script differs from that for ImageNet.
        distractors: words for what is around the target.
    """
    fixed = Protocol("fixed", "single", distractors, prompt="target")
    chefer = replace(
        fixed,
        name="chefer",
        distractors=distractors if streams else (),
        image_size=224,
        label_size=224,
        stretch=True,
    )
    paper = replace(fixed, name="paper", image_size=512, label_size=224, score_filter="nearest", iou="paired")
    if voc:
        paper = replace(
            paper,
            distractors=_VOC_DISTRACTORS if streams else (),
            distractors_first=True,
            image_filter="nearest",
            mask="argmax" if streams else "mean",
            void_accuracy="wrong",
            iou="standard",
            ap="pooled-raw",
        )
    return {"fixed": fixed, "chefer": chefer, "paper": paper}


def _gandelsman(chefer: Protocol) -> Protocol:
    """What a class has more of than the others at a patch; background words make sure that there are others."""
    return replace(
        chefer, name="gandelsman", distractors=_IMAGENET_DISTRACTORS, candidates="all", center=True, clip=True
    )


def _multi(background: bool) -> dict[str, Protocol]:
    distractors = _VOC_DISTRACTORS if background else ()
    fixed = Protocol("fixed", "multi", distractors, mask="argmax", ap="foreground")
    paper = replace(
        fixed,
        name="paper",
        distractors_first=True,
        prompt="present",
        image_size=1024,
        image_filter="nearest",
        label_size=64,
        score_filter="nearest",
        void_in_union=True,
        ap="none",
        relabel="sequential",
    )
    threshold = replace(fixed, name="bg-threshold", distractors=(), candidates="all", background_below=BACKGROUND_BELOW)
    with_background = {"paper": paper, "bg-threshold": threshold} if background else {}
    return {
        "fixed": fixed,
        "gt-prompt": replace(fixed, name="gt-prompt", prompt="present"),
        "full-vocab": replace(fixed, name="full-vocab", candidates="all"),
        **with_background,
    }


def protocols(dataset: type[Dataset], method: str, *, streams: bool) -> dict[str, Protocol]:
    """The protocols of a dataset, as they apply to a method.

    Args:
        dataset: its class.
        method: a method's name.
        streams: the method reads a diffusion transformer's concept stream. The official scripts treat those
            differently: more concepts and an argmax mask on VOC; and blur for ConceptAttention alone.
    """
    if dataset.task == "multi":
        protocols = _multi(dataset.background)
    else:
        around = dataset.surroundings or _IMAGENET_DISTRACTORS
        protocols = _single(streams, voc=dataset.name == "voc-single", distractors=around)
        if dataset.as_read:
            protocols["fixed"] = Protocol("fixed", "single")
        if method == "textspan":
            protocols["gandelsman"] = _gandelsman(protocols["chefer"])
    if "paper" in protocols and streams:
        protocols["paper"] = _official_settings(protocols["paper"], dataset.name, method)
    elif "paper" in protocols and method in _OFFICIAL_OPTIONS:
        protocols["paper"] = replace(protocols["paper"], options=_OFFICIAL_OPTIONS[method])
    return protocols


def _official_settings(protocol: Protocol, dataset: str, method: str) -> Protocol:
    """What the official ConceptAttention command sets; layers are those of a FLUX.1 with 19 blocks (`flux_layers`)."""
    streams = method == "concept-attention"
    layers = (14, 15, 16, 17, 18) if dataset == "voc-single" else (14, 15, 16, 17)
    options: dict[str, Any] = {"preset": "paper", "flux_layers": layers, "noise": 0.5}
    if streams:
        options |= {"samples": 5, "normalize": "linear"}
    if dataset.startswith("voc"):
        options |= {"noise": 0.5128, "samples": 1}
    return replace(protocol, blur=streams and dataset == "imagenet-seg", options=options)


_WRONG_WORDS = ("daam", "cross-attention-prompt", "clip-as-rnn")
_RAW_INPUTS = ("vit-attention", "rollout", "gradcam", "lrp", "partial-lrp", "transinterp", "textspan", "dino")
_OFFICIAL_OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"protocol": "paper"} for name in _WRONG_WORDS},
    **{name: {"input_norm": "reference"} for name in _RAW_INPUTS},
}
"""Quirks of the official scripts that sit inside a method: wrong token positions, half the heads, inputs in 0..1."""


def protocol_named(name: str, dataset: type[Dataset], method: str, *, streams: bool) -> Protocol:
    """One protocol of a dataset.

    Raises:
        ProtocolError: when the dataset has none of this name.
    """
    known = protocols(dataset, method, streams=streams)
    if name not in known:
        raise ProtocolError(f"{dataset.name} has no protocol {name!r}. Known: {', '.join(sorted(known))}.")
    return known[name]
