"""Recipe: every setting that a map depends on, frozen, with one default per model family."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from numbers import Integral
from typing import Any, Literal, get_args, get_type_hints

from conceptlens.values.errors import RecipeError, shown

Space = Literal["output", "cross", "value"]
Normalization = Literal["none", "unit", "linear"]
Pooling = Literal["mean", "first", "last", "joined"]
ImageVectors = Literal["model", "concept-pass"]
Branch = Literal["prompt", "negative"]
CrossPair = Literal["key-query", "query-key", "query-query"]
CrossRotated = Literal["concepts", "both", "neither"]
CrossHeads = Literal["each", "sum"]
SoftmaxAt = Literal["each", "mean"]
Refinement = Literal["cosine", "head-weights", "self-attention", "layer-weights", "common-map", "joint-bilateral"]
REFINEMENTS: tuple[Refinement, ...] = get_args(Refinement)
"""All refinements, in the order in which they are applied."""
SHARP: tuple[Refinement, ...] = ("joint-bilateral",)
"""Those of `preset="sharp"`: what raised the mean IoU on both embedded models (docs/refinement.md)."""
MOST_STEPS = 10_000
"""Denoising steps, or noise draws, beyond which a number is a mistake."""


@dataclass(frozen=True)
class Recipe:
    """How scores are made (ConceptAttention, arXiv 2502.04320, sections 4 and 5).

    Attributes:
        layers: blocks (dual-stream ones, unless `load(single_stream=True)`) whose scores are averaged; negative numbers
            count from the last block, None means the family default.
        steps: denoising steps whose scores are averaged, 0 = the noisiest; negative numbers count from the last step,
            None means all. Used when generating.
        space: "output" compares attention outputs of concepts and patches (the method), "cross" concept keys with
            image queries (see `cross_pair`), "value" values with values.
        cross_pair: what the cross space compares, of the concepts and of the image: "key-query" concept keys with
            image queries, "query-key" concept queries with image keys (the official FLUX.2 code), "query-query"
            queries with queries (the maps of the official FLUX.1 pipeline).
        cross_rotated: which side of it has the model's positional rotation: the "concepts" alone (the identity where
            text is not rotated), "both" (the official CogVideoX code) or "neither" (the official FLUX.2 code).
        cross_heads: "each" head has its own softmax, and their mean counts, or their "sum" goes into one softmax (the
            official FLUX.2 code).
        softmax: softmax over the concepts.
        softmax_at: where it is taken: at "each" layer and step, before their scores are averaged, or at their "mean"
            (the official FLUX.2 code).
        temperature: the scores are divided by it before the softmax.
        normalize: concept vectors as they are ("none"), with unit length ("unit"), or shifted and scaled across the
            concepts to sum to one in each dimension ("linear").
        cross_attention: concepts read the image (paper, Table 4).
        self_attention: concepts read the concepts (paper, Table 4).
        isolate: each concept reads itself and the image only, so its raw scores do not depend on the other concepts.
        pooling: the vector of a concept with several tokens: their mean, the first or last of them, or "joined" (all
            concepts encoded as one prompt, tokens taken in order: the official SD3 code, wrong for multi-token
            concepts).
        bos: the concept stream carries the encoder's begin-of-text row, which is dropped from the maps.
        padding: the concept stream is filled with zero rows up to the text encoder's length, which take part in the
            attention and are dropped from the maps (the official CogVideoX code).
        pooled: the pooled text vector that modulates the concept stream: "zeros" or the "prompt"'s.
        image_vectors: patches' outputs from the "model"'s own pass, or from a "concept-pass" in which image tokens
            attend to the concepts in place of the prompt (the official SD3 code).
        branch: the pass that the concepts follow while a picture is painted under classifier-free guidance: the
            "prompt"'s own or that of the "negative" prompt.
        noise: the noise level sigma in 0..1 at which an existing image is read.
        samples: how many noise draws are averaged when an existing image is read.
        refine: refinements of the scores, in the order of `REFINEMENTS` (docs/refinement.md): "cosine" compares outputs
            by their angle, each side less its mean; "head-weights" trusts heads that agree with all heads together;
            "self-attention" averages each patch's scores over the patches it attends to; "layer-weights" trusts layers
            and steps that agree with their mean; "common-map" takes from each concept what it shares with the others;
            "joint-bilateral" enlarges maps to pixels along the picture's colours.
        preset: the name of the preset that this recipe started from, if any.
    """

    layers: tuple[int, ...] | None = None
    steps: tuple[int, ...] | None = None
    space: Space = "output"
    cross_pair: CrossPair = "key-query"
    cross_rotated: CrossRotated = "concepts"
    cross_heads: CrossHeads = "each"
    softmax: bool = True
    softmax_at: SoftmaxAt = "each"
    temperature: float = 1.0
    normalize: Normalization = "none"
    cross_attention: bool = True
    self_attention: bool = True
    isolate: bool = False
    pooling: Pooling = "mean"
    bos: bool = False
    padding: bool = False
    pooled: Literal["zeros", "prompt"] = "zeros"
    image_vectors: ImageVectors = "model"
    branch: Branch = "prompt"
    noise: float = 0.5
    samples: int = 1
    refine: tuple[Refinement, ...] = ()
    preset: str | None = None

    def __post_init__(self) -> None:
        for name in _CHOICES:
            _check_choice(name, getattr(self, name))
        if not 0 < self.temperature < math.inf:
            raise RecipeError(f"temperature must be above 0; got {self.temperature}.")
        if not 0 <= self.noise <= 1:
            raise RecipeError(f"noise is a level from 0 (clean) to 1 (pure noise); got {self.noise}.")
        if self.samples < 1:
            raise RecipeError(f"samples must be at least 1; got {self.samples}.")
        if self.samples > MOST_STEPS:
            raise RecipeError(f"samples may be at most {MOST_STEPS}; got {self.samples}.")
        _check_refinements(self.refine, self.space)

    def override(self, options: dict[str, Any]) -> Recipe:
        """A copy with some fields replaced.

        Raises:
            RecipeError: for an option that is no field of a recipe, or has a wrong value.
        """
        unknown = sorted(set(options) - RECIPE_FIELDS)
        if unknown:
            raise RecipeError(f"no recipe option {unknown[0]!r}. Known: {', '.join(sorted(RECIPE_FIELDS))}.")
        for name, value in options.items():
            _check_kind(name, value)
        numbers = {n: float(options[n]) for n in ("temperature", "noise") if n in options}
        choices = {n: _indices(n, options[n]) for n in ("layers", "steps") if options.get(n) is not None}
        refine = {"refine": _refinements(options["refine"])} if "refine" in options else {}
        return replace(self, **{**options, **numbers, **choices, **refine})

    def resolve(self, depth: int) -> Recipe:
        """A copy whose `layers` are concrete block numbers of a model with `depth` blocks."""
        layers = tuple(range(depth)) if self.layers is None else self.layers
        return replace(self, layers=_in_range("layers", layers, depth, "blocks"))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `refine` where it is set, so that runs stored before there was one can go on."""
        plain = asdict(self)
        if not self.refine:
            del plain["refine"]
        return plain


RECIPE_FIELDS = frozenset(f.name for f in fields(Recipe))
_CHOICES = {
    *("space", "cross_pair", "cross_rotated", "cross_heads", "softmax_at"),
    *("normalize", "pooling", "pooled", "image_vectors", "branch"),
}


_KINDS: dict[str, tuple[type, ...]] = {"temperature": (int, float), "noise": (int, float), "samples": (int,)}
_SWITCHES = {"softmax", "cross_attention", "self_attention", "isolate", "bos", "padding"}


def _check_kind(name: str, value: object) -> None:
    if name in _CHOICES:
        _check_choice(name, value)
    elif name in _SWITCHES and not isinstance(value, bool):
        raise RecipeError(f"{name} must be true or false; got {shown(value)}.")
    elif name in _KINDS and (isinstance(value, bool) or not isinstance(value, _KINDS[name])):
        raise RecipeError(f"{name} must be a number; got {shown(value)}.")


@cache
def _known(name: str) -> tuple[str, ...]:
    """The values that a field of a recipe may have."""
    return get_args(get_type_hints(Recipe)[name])


def _check_choice(name: str, value: object) -> None:
    known = _known(name)
    if value not in known:
        raise RecipeError(f"{name} must be one of {', '.join(known)}; got {shown(value)}.")


def _refinements(value: object) -> tuple[Any, ...]:
    """One name, or several, as a tuple; None for none."""
    several = value if isinstance(value, (tuple, list)) else () if value is None else (value,)
    for name in several:
        if name not in REFINEMENTS:
            raise RecipeError(f"refine must be of {', '.join(REFINEMENTS)}; got {shown(name)}.")
    return tuple(several)


def _check_refinements(names: tuple[Any, ...], space: Space) -> None:
    _refinements(names)
    ordered = tuple(name for name in REFINEMENTS if name in names)
    if names != ordered:
        raise RecipeError(
            f"refinements apply in one order, each once; got {', '.join(names)}. Write {','.join(ordered)}."
        )
    of_outputs = [name for name in ("cosine", "head-weights") if name in names]
    if of_outputs and space != "output":
        raise RecipeError(
            f"refine={of_outputs[0]!r} compares attention outputs; got space={space!r}. Drop one of them."
        )


def _indices(name: str, value: object) -> tuple[int, ...]:
    given = tuple(value) if isinstance(value, (tuple, list, range)) else (value,)
    numbers = tuple(v for v in given if isinstance(v, int) and not isinstance(v, bool))
    if not given or len(numbers) != len(given):
        raise RecipeError(f"{name} must be one or more whole numbers; got {shown(value)}.")
    return numbers


def _in_range(name: str, chosen: tuple[int, ...], count: int, what: str) -> tuple[int, ...]:
    wrong = [v for v in chosen if not -count <= v < count]
    if wrong:
        raise RecipeError(
            f"{name} has {wrong[0]}, but there are {count} {what}: use 0 to {count - 1}, or -1 to -{count}."
        )
    return tuple(sorted({v % count for v in chosen}))


def resolve_steps(steps: tuple[int, ...] | None, count: int) -> frozenset[int]:
    """The wanted step numbers of a run with `count` denoising steps."""
    if steps is None:
        return frozenset(range(count))
    return frozenset(_in_range("steps", steps, count, "denoising steps"))


_COUNTS = {
    "num_inference_steps": MOST_STEPS,
    "height": 16384,
    "width": 16384,
    "num_frames": MOST_STEPS,
    "max_sequence_length": 8192,
}


def check_counts(options: Mapping[str, Any]) -> None:
    """Raises a `RecipeError` for steps, sides, frames or text lengths below one, or beyond all that is meant."""
    for name, most in _COUNTS.items():
        value = options.get(name)
        if isinstance(value, int) and value < 1:
            raise RecipeError(f"{name} must be at least 1; got {value}.")
        if isinstance(value, int) and value > most:
            raise RecipeError(f"{name} may be at most {most}; got {value}.")


PRESETS = ("paper", "sharp")


def check_preset(preset: str | None) -> None:
    """Raises a `RecipeError` for the name of no preset."""
    if preset is not None and preset not in PRESETS:
        raise RecipeError(f"no preset {preset!r}. Known: {', '.join(PRESETS)}.")


def check_seed(seed: int) -> int:
    """The seed; raises a `RecipeError` for anything but a whole number of at most 64 bits."""
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise RecipeError(f"a seed is one whole number; got {shown(seed)}. For several pictures, paint once per seed.")
    if not -(2**63) <= seed < 2**63:
        raise RecipeError(f"a seed has 64 bits; got {seed}.")
    return seed


def check_choice(name: str, value: object, known: object) -> None:
    """Raises a `RecipeError` unless `value` is one of the Literal `known`."""
    if value not in get_args(known):
        raise RecipeError(f"{name} must be one of {', '.join(get_args(known))}; got {shown(value)}.")
