"""Where image and text are in the transformers whose blocks are entered again: one short entry per class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from conceptlens.families.base import grid_of
from conceptlens.values.recipe import Branch
from conceptlens.values.records import TokenGrid

Order = Literal["text first", "image first"]
Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """What the arguments of a transformer and of its blocks mean. The defaults are those of FLUX.1's kind.

    Attributes:
        name: of the family, for people.
        grid: the patch grid of a call, out of the transformer's configuration and the arguments.
        blocks: the module list of the blocks.
        image: the argument of a block that holds the image rows.
        joint: how text and image stand in that argument; None where text has an argument of its own.
        axis: of the rows in that argument.
        padded: how many image rows a model makes of a grid, padding included.
        attention: the attention module of a block; "" for the block itself.
        out: its output projection of the image.
        text_out: its output projection of the text; None where one projection takes both, in the order `shared`.
        shared: see `text_out`.
        fused: that one projection takes the output of the MLP as well, behind the attention's.
        latents: the argument of the transformer that holds the noised image; likewise `text`, `timestep`.
        text: see `latents`.
        layered: an argument with further states of the same text, one tensor for each block.
        encoders: endings of the pipeline's text encoders: of `text`, and of `layered` where another one writes it.
        timestep: see `latents`.
        pooled: whether the model takes a pooled vector of the prompt.
        roles: where text, image and padding are rows of one sequence, in `latents` and `text` alike: the argument that
            tells them apart, and what it says of text and of image.
        masks: arguments that say which rows of the text are real; ones for the concepts.
        joint_masks: arguments that say it of text and image; left out for the concepts, which have no padding.
        lengths: arguments that count the real rows of the text.
        silent: masks of a second text encoder, which says nothing while concepts are followed.
        text_ids: the positions of the text rows.
        rowwise: arguments with an entry for each row of a sequence of text and image, text first.
        indices: arguments that count out the rows of that sequence: of the text, then of all else.
        pictures: an argument with pictures whose rows stand in front of those of the text.
        registers: the model's learned rows in front of the text.
        last: the painted rows are the last of the image rows, behind those of other pictures; else the first.
        length: the setting of a model that takes texts of one length only; surplus rows are cut off before block 0.
        patch: latent pixels of a token's side; None for the patch size of the configuration.
        counted: whether the pipeline's scale factor counts the patch.
        one_area: the pipeline paints one area only, though the transformer takes less; nothing in a call but its
            latents tells the size.
        listed: arguments that are a list with one tensor for each picture.
        guided_batch: see `ModelAdapter`.
    """

    name: str
    grid: Callable[[Any, Arguments], TokenGrid]
    blocks: str = "transformer_blocks"
    image: str = "hidden_states"
    joint: Order | None = None
    axis: int = 1
    padded: Callable[[Any, TokenGrid], int] = lambda config, grid: grid.tokens
    attention: str = "attn"
    out: str = "to_out.0"
    text_out: str | None = "to_add_out"
    shared: Order = "text first"
    fused: bool = False
    latents: str = "hidden_states"
    text: str = "encoder_hidden_states"
    layered: str | None = None
    encoders: tuple[str, ...] = ("",)
    timestep: str = "timestep"
    pooled: bool = False
    roles: tuple[str, int, int] | None = None
    masks: tuple[str, ...] = ()
    joint_masks: tuple[str, ...] = ()
    lengths: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    text_ids: str | None = None
    rowwise: tuple[str, ...] = ()
    indices: tuple[str, ...] = ()
    pictures: str | None = None
    registers: str | None = None
    last: bool = False
    length: str | None = None
    patch: int | None = None
    counted: bool = False
    one_area: bool = False
    listed: tuple[str, ...] = ()
    guided_batch: tuple[Branch, ...] = ()

    def text_rows(self, arguments: Arguments) -> list[Tensor]:
        """All that a call says of each picture's text rows, (row, ...); `layered` states follow on the last axis.

        Raises:
            RuntimeError: where two encoders gave texts of different lengths.
        """
        if self.layered is None:
            return self.encoded_rows(arguments)[0]
        return [torch.cat(parts, -1) for parts in zip(*self.encoded_rows(arguments), strict=True)]

    def encoded_rows(self, arguments: Arguments) -> list[list[Tensor]]:
        """`text_rows`, with `text` and `layered` states apart, whose lengths may differ."""
        text = list(arguments[self.text])
        if self.roles is not None:
            role, words, _ = self.roles
            return [[rows[told == words] for rows, told in zip(text, arguments[role], strict=True)]]
        if self.layered is None:
            return [text]
        return [text, [torch.cat(layers, -1) for layers in zip(*arguments[self.layered], strict=True)]]

    def part(self, block: Any, name: str) -> Any:
        """A module of a block's attention."""
        return block.get_submodule(self.attention).get_submodule(name)

    def attended(self, block: Any, rows: Tensor) -> Tensor:
        """The attention's part of what enters a block's output projection, which is as wide as what leaves it."""
        return rows[..., : self.part(block, self.out).out_features].clone() if self.fused else rows

    def patch_side(self, config: Any) -> int:
        """Latent pixels of a token's side."""
        told = self.patch or config.patch_size
        return told if isinstance(told, int) else told[-1]


def by_ids(name: str) -> Callable[[Any, Arguments], TokenGrid]:
    """The grid of packed latents, from the position ids of the image rows."""

    def grid(config: Any, arguments: Arguments) -> TokenGrid:
        ids = arguments[name]
        return grid_of(ids if ids.ndim == 2 else ids[0])

    return grid


def by_latents(name: str = "hidden_states", *, frames: int | None = None) -> Callable[[Any, Arguments], TokenGrid]:
    """The grid of unpacked latents, whose last axes are rows and columns; `frames` is the axis of a video's frames."""

    def grid(config: Any, arguments: Arguments) -> TokenGrid:
        shape = arguments[name][0].shape
        patch = getattr(config, "patch_size", None) or 2  # Z-Image names several, of which its pipeline takes 2
        *front, rows, cols = (patch,) * 2 if isinstance(patch, int) else patch
        deep = front[0] if front else getattr(config, "patch_size_t", None) or 1
        count = None if frames is None else shape[frames] // deep
        return TokenGrid(shape[-2] // rows, shape[-1] // cols, count)

    return grid


def _krea(config: Any, arguments: Arguments) -> TokenGrid:
    return grid_of(arguments["position_ids"][-arguments["hidden_states"].shape[1] :])


def _ideogram(config: Any, arguments: Arguments) -> TokenGrid:
    return grid_of(arguments["position_ids"][0][arguments["indicator"][0] == _IDEOGRAM_IMAGE])


def _minimax(config: Any, arguments: Arguments) -> TokenGrid:
    """The painted video stands behind the sound; its ids are times and places, not counts."""
    ids = arguments["position_ids"][int(arguments["audio_indices"][-1]) + 1 :]
    frames, rows, cols = (len(axis.unique()) for axis in ids.unbind(dim=-1))
    return TokenGrid(rows, cols, frames if frames > 1 else None)


def _joy(config: Any, arguments: Arguments) -> TokenGrid:
    """A picture; the pictures it is made from follow it as further frames."""
    *_, frames, height, width = arguments["hidden_states"].shape
    deep, rows, cols = config.patch_size
    return TokenGrid(height // rows, width // cols, frames // deep if frames > deep else None)


def _hidream_rows(config: Any, grid: TokenGrid) -> int:
    """A grid that is not square is padded to the largest one."""
    return grid.tokens if grid.rows == grid.cols else math.prod(config.max_resolution) // config.patch_size**2


def _joy_plus(config: Any, arguments: Arguments) -> TokenGrid:
    frames, rows, cols = arguments["shape_list"][0][0]
    return TokenGrid(rows, cols, frames if frames > 1 else None)


_IDEOGRAM_TEXT, _IDEOGRAM_IMAGE = 3, 2
_FLUX_LIKE: dict[str, Any] = {"grid": by_ids("img_ids"), "text_ids": "txt_ids", "patch": 2}
_SHARED: dict[str, Any] = {"attention": "attn1", "text_out": None}
_VIDEO = by_latents(frames=1)
_NEGATIVE_FIRST: tuple[Branch, ...] = ("negative", "prompt")
_MASK, _MASK_2 = ("encoder_attention_mask",), ("encoder_attention_mask_2",)

DUAL_LAYOUTS: dict[str, Layout] = {
    "BriaTransformer2DModel": Layout("Bria", **_FLUX_LIKE, counted=True, guided_batch=_NEGATIVE_FIRST),
    "BriaFiboTransformer2DModel": Layout(
        "BRIA FIBO",
        **{**_FLUX_LIKE, "patch": 1},
        layered="text_encoder_layers",
        guided_batch=_NEGATIVE_FIRST,
    ),
    "HiDreamImageTransformer2DModel": Layout(
        "HiDream-I1",
        by_latents(),
        blocks="double_stream_blocks",
        attention="block.attn1",
        out="to_out",
        text_out="to_out_t",
        text="encoder_hidden_states_t5",
        layered="encoder_hidden_states_llama3",
        encoders=("_3", "_4"),
        timestep="timesteps",
        pooled=True,
        one_area=True,
        padded=_hidream_rows,
        guided_batch=_NEGATIVE_FIRST,
    ),
    "LongCatImageTransformer2DModel": Layout("LongCat-Image", **_FLUX_LIKE),
    "OvisImageTransformer2DModel": Layout("Ovis-Image", **_FLUX_LIKE),
    "HunyuanImageTransformer2DModel": Layout("HunyuanImage", by_latents(), masks=_MASK, silent=_MASK_2),
    "HunyuanVideoFramepackTransformer3DModel": Layout(
        "HunyuanVideo Framepack",
        _VIDEO,
        masks=_MASK,
        pooled=True,
        pictures="image_embeds",
        last=True,
    ),
    "MotifVideoTransformer3DModel": Layout("Motif-Video", _VIDEO, masks=_MASK, pictures="image_embeds"),
    "EasyAnimateTransformer3DModel": Layout("EasyAnimate", _VIDEO, attention="attn1", guided_batch=_NEGATIVE_FIRST),
    "JoyImageEditTransformer3DModel": Layout(
        "JoyImage-Edit", _joy, blocks="double_blocks", out="img_attn_proj", text_out="txt_attn_proj"
    ),
    "JoyImageEditPlusTransformer3DModel": Layout(
        "JoyImage-Edit Plus",
        _joy_plus,
        blocks="double_blocks",
        out="img_attn_proj",
        text_out="txt_attn_proj",
        masks=("encoder_hidden_states_mask",),
    ),
}
SHARED_LAYOUTS: dict[str, Layout] = {
    "CogView3PlusTransformer2DModel": Layout("CogView3 Plus", by_latents(), **_SHARED, guided_batch=_NEGATIVE_FIRST),
    "ConsisIDTransformer3DModel": Layout(
        "ConsisID", by_latents(frames=0), **_SHARED, guided_batch=_NEGATIVE_FIRST, length="max_text_seq_length"
    ),
    "GlmImageTransformer2DModel": Layout("GLM-Image", by_latents(), **_SHARED),
}
SINGLE_LAYOUTS: dict[str, Layout] = {
    "Flux3Transformer2DModel": Layout("FLUX.3", **_FLUX_LIKE, blocks="single_transformer_blocks", text_out=None),
    "ZImageTransformer2DModel": Layout(
        "Z-Image",
        by_latents("x"),
        blocks="layers",
        image="x",
        joint="image first",
        padded=lambda config, grid: -(-grid.tokens // 32) * 32,
        attention="attention",
        text_out=None,
        shared="image first",
        latents="x",
        text="cap_feats",
        timestep="t",
        listed=("x", "cap_feats"),
        patch=2,
        guided_batch=("prompt", "negative"),
    ),
    "Lumina2Transformer2DModel": Layout(
        "Lumina-Image 2", by_latents(), blocks="layers", joint="text first", text_out=None, masks=_MASK
    ),
    "Krea2Transformer2DModel": Layout(
        "Krea 2", _krea, joint="text first", text_out=None, masks=_MASK, rowwise=("position_ids",), patch=2
    ),
    "Ideogram4Transformer2DModel": Layout(
        "Ideogram 4",
        _ideogram,
        blocks="layers",
        joint="text first",
        attention="attention",
        text_out=None,
        roles=("indicator", _IDEOGRAM_TEXT, _IDEOGRAM_IMAGE),
        patch=2,
    ),
    "MiniMaxH3Transformer3DModel": Layout(
        "MiniMax-H3",
        _minimax,
        joint="text first",
        text_out=None,
        rowwise=("position_ids", "token_tags", "timestep_indices"),
        indices=("text_indices", "video_indices", "audio_indices"),
        last=True,
    ),
    "ErnieImageTransformer2DModel": Layout(
        "ERNIE-Image",
        by_latents(),
        blocks="layers",
        image="x",
        joint="image first",
        axis=0,
        attention="self_attention",
        text_out=None,
        shared="image first",
        text="text_bth",
        lengths=("text_lens",),
        guided_batch=_NEGATIVE_FIRST,
    ),
}

FAMILY_LAYOUTS: dict[str, Layout] = {
    "AuraFlowTransformer2DModel": Layout(
        "AuraFlow", by_latents(), blocks="joint_transformer_blocks", registers="register_tokens"
    ),
    "ChromaTransformer2DModel": Layout("Chroma", **_FLUX_LIKE, joint_masks=("attention_mask",)),
    "Flux2Transformer2DModel": Layout("FLUX.2", **_FLUX_LIKE),
    "FluxTransformer2DModel": Layout("FLUX.1", **_FLUX_LIKE, pooled=True),
    "HunyuanVideoTransformer3DModel": Layout("HunyuanVideo", _VIDEO, masks=_MASK, pooled=True),
}
"""Dual-stream blocks of families with an adapter of their own, for `single_stream`."""


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
