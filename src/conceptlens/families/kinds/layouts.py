"""Where image and text are in transformers whose blocks are entered again: in the arguments of a call, and in a block.

The classes here serve most families. What one family alone has is a subclass with a method, in that family's file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from conceptlens.families.kinds.rows import grid_of, repeat_rows, rows_at, take
from conceptlens.values.errors import ModelError
from conceptlens.values.models import Config, Model, Module
from conceptlens.values.records import CallRecord, TokenGrid

Order = Literal["text first", "image first"]
Arguments = Mapping[str, Any]

_SHARED_BY_ALL = ("img_ids", "txt_ids", "position_ids")
_PLAIN = (bool, int, float, str, list, tuple)
_SHAPES = ("images", "latents", "text", "parts", "masks", "leading", "widths")
"""Settings of a `CallRecord` that are no arguments of the call."""
_LEFT_OUT = ("return_dict", "kv_caches")


@dataclass(frozen=True)
class Blocks:
    """Where image and text stand in blocks of one kind. The defaults are those of FLUX.1's dual-stream blocks.

    Attributes:
        path: the module list of the blocks.
        image: the argument of a block that holds the image rows.
        joint: how text and image stand in that argument; None where text has an argument of its own.
        attention: the attention module of a block; "" for the block itself.
        out: its output projection of the image.
        text_out: its output projection of the text; None where one projection takes both, in the order `shared`.
        shared: see `text_out`.
        fused: that one projection takes the output of the MLP as well, behind the attention's.
    """

    path: str = "transformer_blocks"
    image: str = "hidden_states"
    joint: Order | None = None
    attention: str = "attn"
    out: str = "to_out.0"
    text_out: str | None = "to_add_out"
    shared: Order = "text first"
    fused: bool = False

    def part(self, block: Module, name: str) -> Module:
        """A module of a block's attention."""
        return block.get_submodule(self.attention).get_submodule(name)

    def attended(self, block: Module, rows: Tensor) -> Tensor:
        """The attention's part of what enters a block's output projection, which is as wide as what leaves it."""
        return rows[..., : self.part(block, self.out).out_features].clone() if self.fused else rows

    def batch_first(self, tensor: Tensor) -> Tensor:
        """The argument `image` as (batch, row, dim); the same function leads back."""
        return tensor


FLUX_SINGLE = Blocks("single_transformer_blocks", attention="", out="proj_out", text_out=None, fused=True)
"""The single-stream blocks of FLUX.1 and its kin, whose text has an argument of its own."""


@dataclass(frozen=True)
class Layout(ABC):
    """What the arguments of a transformer mean. The defaults are those of FLUX.1's kind.

    Attributes:
        blocks: those that are entered.
        latents: the argument that holds the noised image; likewise `text`, `timestep`.
        text: see `latents`.
        timestep: see `latents`.
        pooled: whether the model takes a pooled vector of the prompt.
        masks: arguments that say which rows of the text are real; ones for the concepts.
        text_ids: the positions of the text rows.
        pictures: an argument with pictures whose rows stand in front of those of the text.
        last: the painted rows are the last of the image rows, behind those of other pictures; else the first.
        patch: latent pixels of a token's side; None for the patch size of the configuration.
    """

    blocks: Blocks = Blocks()
    latents: str = "hidden_states"
    text: str = "encoder_hidden_states"
    timestep: str = "timestep"
    pooled: bool = False
    masks: tuple[str, ...] = ()
    text_ids: str | None = None
    pictures: str | None = None
    last: bool = False
    patch: int | None = None

    encoders: ClassVar[tuple[str, ...]] = ("",)
    """Endings of the pipeline's text encoders, one for each entry of `encoded_rows`, or one for all."""
    length: ClassVar[str | None] = None
    """The setting of a model that takes texts of one length only; surplus rows are cut off before block 0."""

    @abstractmethod
    def grid(self, config: Config, arguments: Arguments) -> TokenGrid:
        """The patch grid of a call."""

    def patch_side(self, config: Config) -> int:
        """Latent pixels of a token's side."""
        side = self.patch or config.patch_size
        return side if isinstance(side, int) else side[-1]

    def encoded_rows(self, arguments: Arguments) -> list[list[Tensor]]:
        """The text rows of each picture, (row, ...), apart for each text encoder that writes some of a row."""
        return [list(arguments[self.text])]

    def text_rows(self, arguments: Arguments) -> list[Tensor]:
        """All that a call says of each picture's text rows, (row, ...); states of several encoders on the last axis.

        Raises:
            RuntimeError: where two encoders gave texts of different lengths.
        """
        first, *more = self.encoded_rows(arguments)
        return first if not more else [torch.cat(parts, -1) for parts in zip(first, *more, strict=True)]

    def observe(self, model: Model, arguments: Arguments, rows: slice, step: int) -> CallRecord:
        """What is kept of a call: all but image and text, for the given rows of the batch.

        Raises:
            ModelError: for prompts of several lengths in one batch where that shifts the image rows.
        """
        masks = {name: arguments[name] for name in self.masks if arguments.get(name) is not None}
        lengths = {int(count) for mask in masks.values() for count in mask[rows].sum(dim=-1)}
        if self.blocks.joint == "text first" and len(lengths) > 1:
            raise ModelError("prompts of different lengths shift this model's image rows. Paint them one by one.")
        grid = self.grid(model.config, arguments)
        settings = {
            "images": self.image_rows(model.config, arguments, grid),
            "latents": list(stacked(arguments[self.latents])[rows].shape),
            **self.text_shape(arguments),
            "leading": self.leading_rows(model, arguments),
            "parts": {},
            "masks": {name: str(mask.dtype).removeprefix("torch.") for name, mask in masks.items()},
        }
        return CallRecord(step, grid, self._others(arguments, rows, settings), settings)

    def _others(self, arguments: Arguments, rows: slice, settings: dict[str, Any]) -> dict[str, Tensor]:
        """Tensors of a call besides image and text; what is no tensor goes into `settings`."""
        count, replaced = len(arguments[self.latents]), (*self.replaced(), *_LEFT_OUT)
        tensors: dict[str, Tensor] = {}
        for name, value in arguments.items():
            if value is None or name in replaced or "controlnet" in name:
                continue
            if torch.is_tensor(value):
                tensors[name] = value if self.is_shared(name, value, arguments) else take(value, rows)
            elif isinstance(value, (list, tuple)) and value and all(torch.is_tensor(part) for part in value):
                tensors |= {f"{name}.{number}": part for number, part in enumerate(value)}
                settings["parts"][name] = len(value)
            elif isinstance(value, _PLAIN):
                settings[name] = value[rows] if isinstance(value, list) and len(value) == count else value
        return tensors

    def image_rows(self, config: Config, arguments: Arguments, grid: TokenGrid) -> int:
        """Image rows of one picture, those of other pictures and padding included."""
        latents = arguments[self.latents]
        return latents.shape[1] if torch.is_tensor(latents) and latents.ndim == 3 else grid.tokens

    def text_shape(self, arguments: Arguments) -> dict[str, list[int]]:
        """The shape of one text row, "text", as a setting of a `CallRecord`."""
        return {"text": list(self.encoded_rows(arguments)[0][0].shape[1:])}

    def leading_rows(self, model: Model, arguments: Arguments) -> int:
        """Rows in front of the text: of other pictures, or learned ones."""
        pictures = None if self.pictures is None else arguments.get(self.pictures)
        return 0 if pictures is None else pictures.shape[1]

    def replaced(self) -> tuple[str, ...]:
        """Arguments that `enter` makes anew or leaves out."""
        return (self.latents, self.text, *self.masks)

    def is_shared(self, name: str, value: Tensor, arguments: Arguments) -> bool:
        """Whether an argument belongs to all pictures of a batch, so that it has no rows to choose from."""
        return name in _SHARED_BY_ALL or value.ndim == 0 or len(value) != len(arguments[self.latents])

    def enter(
        self, tokens: Float[Tensor, "concept dim"], places: Sequence[int], call: CallRecord, model: Model
    ) -> dict[str, Any]:
        """The call again: concepts for the text, zeros for the image, whose rows are put in at each block.

        Args:
            tokens: the new text rows, on the device and in the dtype of the model.
            places: where they stand in the text.
            call: from `observe`.
            model: the transformer.
        """
        given, settings = call.arguments, call.settings
        batch, parts = settings["latents"][0], settings["parts"]
        call_again: dict[str, Any] = {name: value for name, value in settings.items() if name not in _SHAPES}
        call_again |= {name: tensor for name, tensor in given.items() if name.split(".")[0] not in parts}
        for name, number in parts.items():
            call_again[name] = tuple(given[f"{name}.{part}"] for part in range(number))
        call_again[self.latents] = tokens.new_zeros(settings["latents"])
        text = tokens.unflatten(-1, settings["text"]) if len(settings["text"]) > 1 else tokens
        call_again[self.text] = repeat_rows(text, batch)
        for name, kind in settings["masks"].items():
            call_again[name] = torch.ones(batch, len(tokens), device=tokens.device, dtype=getattr(torch, kind))
        if self.text_ids is not None:
            call_again[self.text_ids] = rows_at(given[self.text_ids], places)
        return call_again

    def first_concept(self, call: CallRecord, rows: int, count: int) -> int:
        """The first of `count` concepts in a text of so many rows."""
        return call.settings["leading"]


@dataclass(frozen=True)
class Packed(Layout):
    """Latents packed into tokens, (batch, token, channel), with position ids of image and text, as in FLUX.1."""

    text_ids: str | None = "txt_ids"
    patch: int | None = 2

    def grid(self, config: Config, arguments: Arguments) -> TokenGrid:
        ids = arguments["img_ids"]
        return grid_of(ids if ids.ndim == 2 else ids[0])


@dataclass(frozen=True)
class Unpacked(Layout):
    """Latents whose last axes are rows and columns.

    Attributes:
        frames: the axis of a video's frames, without that of the batch; None for pictures.
    """

    frames: int | None = None

    def grid(self, config: Config, arguments: Arguments) -> TokenGrid:
        shape = arguments[self.latents][0].shape
        patch = self.patch or config.patch_size
        *front, rows, cols = (patch,) * 2 if isinstance(patch, int) else patch
        deep = front[0] if front else getattr(config, "patch_size_t", None) or 1
        count = None if self.frames is None else shape[self.frames] // deep
        return TokenGrid(shape[-2] // rows, shape[-1] // cols, count)


class LayeredText(Layout):
    """Further states of the same text, one tensor for each block, in the argument `layered`."""

    layered: ClassVar[str]

    def encoded_rows(self, arguments: Arguments) -> list[list[Tensor]]:
        layers = zip(*arguments[self.layered], strict=True)
        return [list(arguments[self.text]), [torch.cat(states, -1) for states in layers]]

    def text_shape(self, arguments: Arguments) -> dict[str, list[int]]:
        parts = (arguments[self.text], *arguments[self.layered])
        widths = [part.shape[-1] for part in parts]
        return {"text": [sum(widths)], "widths": widths}

    def replaced(self) -> tuple[str, ...]:
        return (*super().replaced(), self.layered)

    def enter(self, tokens: Tensor, places: Sequence[int], call: CallRecord, model: Model) -> dict[str, Any]:
        entry = super().enter(tokens, places, call, model)
        entry[self.text], *entry[self.layered] = entry[self.text].split(call.settings["widths"], dim=-1)
        return entry


@dataclass(frozen=True)
class AllBlocks:
    """A model with single-stream blocks behind dual-stream ones, all of which are entered on request.

    Attributes:
        layout: of a call, and of the dual-stream blocks.
        single: the single-stream blocks.
    """

    layout: Layout
    single: Blocks


def stacked(value: Tensor | Iterable[Tensor]) -> Tensor:
    """A batch, whether it came as one tensor or as a list with one for each picture."""
    return value if torch.is_tensor(value) else torch.stack(list(value))


def joined_rows(tensor: Tensor, order: Order, images: int) -> tuple[Tensor, Tensor]:
    """Image rows and text rows of a sequence of both, rows on axis 1."""
    if order == "text first":
        return tensor[:, tensor.shape[1] - images :], tensor[:, : tensor.shape[1] - images]
    return tensor[:, :images], tensor[:, images:]


def with_image_rows(tensor: Tensor, order: Order, hidden: Tensor) -> Tensor:
    """A sequence of text and image whose image rows are replaced by `hidden`, rows on axis 1."""
    count = hidden.shape[1]
    if order == "text first":
        return torch.cat([tensor[:, : tensor.shape[1] - count], hidden], dim=1)
    return torch.cat([hidden, tensor[:, count:]], dim=1)
