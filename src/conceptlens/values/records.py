"""What one image pass leaves behind, and all that a concept needs to be found in it later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from conceptlens.values.clips import Clip
from conceptlens.values.recipe import Recipe


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


_Own = TypeVar("_Own", bound="LayerRecord")


@dataclass(frozen=True)
class LayerRecord:
    """The image side of one layer in one call; its leaves say what that is for each kind of model.

    Attributes:
        layer: number of the block, or of the cross-attention layer.
        call: the call it belongs to.
    """

    parts: ClassVar[tuple[str, ...]]
    """The tensors that a record of this kind may hold."""

    layer: int
    call: CallRecord

    @property
    def answers(self) -> bool:
        """Whether scores can be made of this layer; others only carry concepts onwards."""
        return True

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What was recorded, by name; all of it has the same first axis, the batch."""
        return {name: getattr(self, name) for name in self.parts if getattr(self, name) is not None}

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def part(self, name: str) -> Tensor:
        """A tensor that not every record of this kind holds. Raises a `KeyError` where this one lacks it."""
        return self.tensors[name]

    def to(self: _Own, device: torch.device | str) -> _Own:
        """A copy on another device; the record itself if it is there already."""
        tensors = self.tensors
        there = torch.device(device)
        if all(tensor.device == there for tensor in (*tensors.values(), *self.call.arguments.values())):
            return self
        moved = {name: tensor.to(device) for name, tensor in tensors.items()}
        arguments = {name: tensor.to(device) for name, tensor in self.call.arguments.items()}
        return replace(self, call=replace(self.call, arguments=arguments), **moved)

    @property
    def batch(self) -> int:
        """Rows of the batch: noise draws of a picture."""
        return len(next(iter(self.tensors.values())))

    def rows(self: _Own, rows: slice, call: CallRecord | None = None) -> _Own:
        """Views of some rows of the batch, with the call that belongs to them."""
        return replace(self, call=call or self.call, **{name: tensor[rows] for name, tensor in self.tensors.items()})

    def clone(self: _Own) -> _Own:
        """A copy with memory of its own: a running model hands out views, of more rows than the record has."""
        return replace(self, **{name: tensor.detach().clone() for name, tensor in self.tensors.items()})


R = TypeVar("R", bound=LayerRecord)
"""What a kind of model leaves behind."""


@dataclass(frozen=True)
class StreamLayer(LayerRecord):
    """A block whose text half is written out: what concepts read, and what they are compared with.

    Attributes:
        key: image keys after QK-norm and positional rotation.
        value: image values.
        out: attention output of the image tokens before the output projection; None where only keys and values are
            needed to carry the concept stream onwards.
        query: image queries after QK-norm, before positional rotation; None unless the cross space needs them.
    """

    parts: ClassVar[tuple[str, ...]] = ("key", "value", "out", "query")

    key: Float[Tensor, "batch head image head_dim"]
    value: Float[Tensor, "batch head image head_dim"]
    out: Float[Tensor, "batch image dim"] | None = None
    query: Float[Tensor, "batch head image head_dim"] | None = None

    @property
    def answers(self) -> bool:
        return self.out is not None


@dataclass(frozen=True)
class EnteredLayer(LayerRecord):
    """A block that is entered again, with concepts in place of the text.

    Attributes:
        hidden: image tokens as they entered the block, with those of other pictures.
        out: see `StreamLayer`; None where the block is only passed on the way to a wanted one.
    """

    parts: ClassVar[tuple[str, ...]] = ("hidden", "out")

    hidden: Float[Tensor, "batch row width"]
    out: Float[Tensor, "batch image dim"] | None = None

    @property
    def answers(self) -> bool:
        return self.out is not None


@dataclass(frozen=True)
class CrossLayer(LayerRecord):
    """A cross-attention layer, whose image queries are held against the keys of any text.

    Attributes:
        query: of the image, as it goes into the softmax, with norms and rotation.
        scale: of the scores q k.
        image_key: of the image, where one softmax takes text and image; None where the text has one of its own.
    """

    parts: ClassVar[tuple[str, ...]] = ("query", "image_key")

    query: Float[Tensor, "batch head image head_dim"]
    scale: float
    image_key: Float[Tensor, "batch kv_head image head_dim"] | None = None

    def draw(self, number: int) -> CrossLayer:
        """The layer in one noise draw alone."""
        return self.rows(slice(number, number + 1))


@dataclass(frozen=True)
class ImageRecord:
    """An image as the model saw it: ask it for any concepts with `Session.probe`, without running the model again.

    Attributes:
        layers: the blocks up to the last wanted one (of cross attention the wanted layers), in order, of one call (an
            image that was read; the batch axis holds the noise draws) or of one denoising step after another (an image
            that was painted).
        grid: the patch grid; of a U-Net the grid of the latents, which deeper layers halve.
        image: the picture that was read or painted, in its own size; of a film its first frame.
        prompt: the prompt that accompanied it.
        model_id: the model that read or painted it.
        recipe: the settings; `layers`, `steps` and `space` bound what can be probed.
        seed: the seed of the noise; None if the caller brought a generator.
        steps: how many denoising steps painted the image; 0 for one that was read.
        options: keywords of the pipeline that the embedding of concepts may depend on, and that it takes to repeat it.
        clip: the film that was read or painted, all frames of it; None of a picture.
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
    clip: Clip | None = None

    @property
    def nbytes(self) -> int:
        """Size of the recorded tensors in bytes."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def recorded_steps(self) -> tuple[int, ...]:
        """The denoising steps that were recorded, 0 = the noisiest; (0,) for an image that was read."""
        return tuple(sorted({layer.call.step for layer in self.layers}))

    @property
    def answering_layers(self) -> frozenset[int]:
        """Numbers of the layers of which maps can be made."""
        return frozenset(layer.layer for layer in self.layers if layer.answers)

    def to(self, device: torch.device | str) -> ImageRecord:
        """A copy on another device, for example "cpu" to free a GPU; `probe` brings it back layer by layer."""
        return replace(self, layers=tuple(layer.to(device) for layer in self.layers))
