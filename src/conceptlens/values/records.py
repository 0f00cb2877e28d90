"""What one image pass leaves behind, and all that a concept needs to be found in it later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from conceptlens.values.recipe import Recipe

PARTS = ("key", "value", "out", "query", "hidden")
"""The tensors that a `LayerRecord` may hold."""


@dataclass(frozen=True)
class TokenGrid:
    """The patch grid of an image, row by row; of a video, frame by frame (`frames` counts latent frames)."""

    rows: int
    cols: int
    frames: int | None = None

    @property
    def tokens(self) -> int:
        return self.rows * self.cols * (self.frames or 1)


@dataclass(frozen=True)
class CallRecord:
    """The arguments of one transformer call that the concept stream depends on.

    Attributes:
        step: denoising step, 0 = the noisiest.
        grid: the patch grid of the output image; further image tokens (reference images) follow it.
        arguments: tensors by name, opaque to all but the adapter: timestep, guidance, pooled vector, position ids.
        settings: what is no tensor, as plain JSON values; opaque likewise.
        references: the patch grids of the reference images, in the order in which their tokens follow.
    """

    step: int
    grid: TokenGrid
    arguments: Mapping[str, Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict)
    references: tuple[TokenGrid, ...] = ()


@dataclass(frozen=True)
class LayerRecord:
    """The image side of one dual-stream block in one call.

    Attributes:
        layer: number of the block.
        call: the call it belongs to.
        key: image keys after QK-norm and positional rotation; None where the block is entered again (`hidden`).
        value: image values; None likewise.
        out: attention output of the image tokens before the output projection; None where only keys and values are
            needed to carry the concept stream onwards.
        query: image queries after QK-norm, before positional rotation; None unless the cross space needs them.
        hidden: image tokens as they entered the block, for families whose blocks are entered again with concepts in
            place of the text, with those of other pictures; None for all others.
    """

    layer: int
    call: CallRecord
    key: Float[Tensor, "batch head image head_dim"] | None
    value: Float[Tensor, "batch head image head_dim"] | None
    out: Float[Tensor, "batch image dim"] | None
    query: Float[Tensor, "batch head image head_dim"] | None
    hidden: Float[Tensor, "batch row width"] | None = None

    def to(self, device: torch.device | str) -> LayerRecord:
        """A copy on another device; the record itself if it is there already."""
        tensors = self.tensors
        there = torch.device(device)
        if all(tensor.device == there for tensor in (*tensors.values(), *self.call.arguments.values())):
            return self
        moved = {name: tensor.to(device) for name, tensor in tensors.items()}
        arguments = {name: tensor.to(device) for name, tensor in self.call.arguments.items()}
        return replace(self, call=replace(self.call, arguments=arguments), **moved)

    def clone(self) -> LayerRecord:
        """A copy with memory of its own: a running model hands out views, of more rows than the record has."""
        return replace(self, **{name: tensor.detach().clone() for name, tensor in self.tensors.items()})

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What was recorded, by name; all of it has the same first axis, the batch."""
        return {name: getattr(self, name) for name in PARTS if getattr(self, name) is not None}

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True)
class ImageRecord:
    """An image as the model saw it: ask it for any concepts with `Session.probe`, without running the model again.

    Attributes:
        layers: the blocks up to the last wanted one, in order, of one call (an image that was read; the batch axis
            holds the noise draws) or of one denoising step after another (an image that was painted).
        grid: the patch grid.
        image: the picture that was read or painted, in its own size.
        prompt: the prompt that accompanied it.
        model_id: the model that read or painted it.
        recipe: the settings; `layers`, `steps` and `space` bound what can be probed.
        seed: the seed of the noise; None if the caller brought a generator.
        steps: how many denoising steps painted the image; 0 for one that was read.
        options: keywords of the pipeline that the embedding of concepts may depend on, and that it takes to repeat it.
    """

    layers: tuple[LayerRecord, ...]
    grid: TokenGrid
    image: Image.Image
    prompt: str
    model_id: str
    recipe: Recipe
    seed: int | None
    steps: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Size of the recorded tensors in bytes."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def recorded_steps(self) -> tuple[int, ...]:
        """The denoising steps that were recorded, 0 = the noisiest; (0,) for an image that was read."""
        return tuple(sorted({layer.call.step for layer in self.layers}))

    def to(self, device: torch.device | str) -> ImageRecord:
        """A copy on another device, for example "cpu" to free a GPU; `probe` brings it back layer by layer."""
        return replace(self, layers=tuple(layer.to(device) for layer in self.layers))
