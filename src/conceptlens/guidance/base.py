"""Guidance: a loss on cross-attention maps, and how its gradient moves the latents."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from conceptlens.guidance.settings import by_step, finite, map_size, number, step_numbers, whole
from conceptlens.values.errors import RecipeError
from conceptlens.values.recipe import check_choice
from conceptlens.watch.prompt_text import PromptText

AlphaSchedule = Literal["constant", "sqrt_linear"]
GradNorm = Literal["none", "rms"]

Maps = Float[Tensor, "_key rows cols"]
Objective = Callable[[Maps, Maps | None], Tensor]
"""Maps of one image, and those of the guided step before (None on the first), to a scalar loss."""


@runtime_checkable
class GuidedModel(Protocol):
    """A pipeline's image model before its first step, as guidance sees it.

    Attributes:
        module: whose weights are frozen while a gradient is taken.
        texts: for each image its prompt, as each (pair of) text encoder read it.
        latents: the first noise, one row for each image, in whatever layout the pipeline steps it.
    """

    module: Any
    texts: tuple[tuple[PromptText, ...], ...]
    latents: Tensor

    def maps(self, latents: Tensor, timestep: Tensor) -> Sequence[Maps]:
        """One forward with the prompt alone: the maps of each image, with graph."""
        ...

    def reading(self) -> AbstractContextManager[None]:
        """What `maps` needs, and the backward pass after it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Guidance(ABC):
    """What every guidance has in common: when the latents are moved, and how far.

    The update before denoising step i is `z <- z - alpha_i * dL/dz`, where L is computed from the cross-attention of a
    forward pass with the prompt alone (no classifier-free guidance).

    Attributes:
        alpha: step size; 0 leaves the pipeline alone, bit for bit.
        steps: denoising steps that are guided, 0 = the noisiest; those past the last step are ignored.
        alpha_schedule: "constant", or "sqrt_linear": `alpha * sqrt(1 - i / (2 (n - 1)))` in step i of n.
        inner: further updates before a step's own, at most so many, by step.
        bounds: ends `inner` for an image as soon as its loss is at or below the bound, by step.
        grad_norm: "rms" rescales each image's gradient to the root mean square of its latents, so that `alpha` means
            the same for every model; "none" takes it as it is (all papers).
        grad_scale: the loss is multiplied by it before the backward pass and the gradient divided after, so that
            float16 does not underflow; None: 1024 for float16, else 1.
        attention_size: (rows, cols) of the cross-attention layers that are read; None: a quarter of the latents' size,
            which is 16x16 for Stable Diffusion at 512x512 and 32x32 for Stable Diffusion XL at 1024x1024, or the finest
            of a U-Net that has none of that size.
        checkpointing: gradient checkpointing in guidance passes: less memory, one more forward, no early exit.
        experimental: allows what no paper has tried: T-SAM on a diffusion transformer.
    """

    name: ClassVar[str]
    reads_transformers: ClassVar[bool] = False
    """Whether the method has maps to read in a diffusion transformer, too."""

    alpha: float | int = 20.0
    steps: Iterable[int] = range(25)
    alpha_schedule: AlphaSchedule = "constant"
    inner: Mapping[int, int] = field(default_factory=dict)
    bounds: Mapping[int, float] = field(default_factory=dict)
    grad_norm: GradNorm = "none"
    grad_scale: float | int | None = None
    attention_size: tuple[int, int] | None = None
    checkpointing: bool = False
    experimental: bool = False

    def __post_init__(self) -> None:
        self._set("alpha", number("alpha", self.alpha, "a finite step size", hint=" Use 0 for no guidance."))
        self._set("steps", step_numbers(self.steps))
        by_step("inner", self.inner, "a number of updates", lambda n: whole(n, 0))
        by_step("bounds", self.bounds, "a loss", finite)
        check_choice("alpha_schedule", self.alpha_schedule, AlphaSchedule)
        check_choice("grad_norm", self.grad_norm, GradNorm)
        if self.grad_scale is not None:
            self._set("grad_scale", number("grad_scale", self.grad_scale, "a finite number above 0", lambda v: v > 0))
        if self.attention_size is not None:
            self._set("attention_size", map_size(self.attention_size))

    def _set(self, name: str, value: object) -> None:
        """Puts a field into its one form while the guidance is made."""
        object.__setattr__(self, name, value)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" in vars(cls):
            _known[cls.name] = cls

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Guidance:
        """A published setting by its name, with some fields changed.

        Raises:
            RecipeError: for an unknown name.
        """
        raise RecipeError(f"{cls.name} has no preset {name!r}; its defaults are the published settings. Leave it out.")

    @abstractmethod
    def objective(self, text: PromptText) -> Objective:
        """The loss for one prompt.

        Raises:
            RecipeError: when the prompt gives the loss nothing to compare.
        """

    def similar_positions(self, text: PromptText) -> tuple[tuple[int, ...], ...]:
        """Encoder positions whose maps are kept in the result, averaged within each entry: the prompt's own tokens."""
        return tuple((position,) for position in text.positions)

    def target(self, text: PromptText) -> Float[Tensor, "token token"] | None:
        """What the similarities are pulled towards, where the method has such a matrix."""
        return None

    def step_size(self, step: int, count: int) -> float:
        """The `alpha` of denoising step `step` of `count`."""
        if self.alpha_schedule == "constant":
            return self.alpha
        return self.alpha * math.sqrt(1 - 0.5 * step / max(count - 1, 1))

    def settings(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"method": self.name, **asdict(self)}


_known: dict[str, type[Guidance]] = {}


def known() -> Mapping[str, type[Guidance]]:
    """Every guidance by its name."""
    return dict(_known)
