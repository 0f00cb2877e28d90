"""What a cross-attention layer computes with, seen as it passes.

The model's own attention processors run untouched. Inside a cross-attention layer the arguments of
`scaled_dot_product_attention` are looked at and handed on, so queries and keys come with whatever the family does to
them (norms before or after the heads are split, rotation, masks), and nothing of that is written a second time here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from conceptlens.families.kinds.cross_attention import CrossLayout
from conceptlens.families.kinds.layouts import Order
from conceptlens.ops.attention import text_probabilities
from conceptlens.values.early_exit import StopForward


@dataclass(frozen=True)
class LayerAttention:
    """One cross-attention layer in one call, as it goes into the softmax.

    Attributes:
        layer: the block's number.
        query: of the image, with norms and rotation.
        key: of the text, likewise.
        bias: added to the scores before the softmax; None where the layer has no mask.
        scale: of the scores.
        image_key: of the image, where one softmax takes text and image; None where the text has one of its own.
    """

    layer: int
    query: Float[Tensor, "batch head image head_dim"]
    key: Float[Tensor, "batch kv_head token head_dim"]
    bias: Float[Tensor, "#batch #head #image token"] | None
    scale: float
    image_key: Float[Tensor, "batch kv_head image head_dim"] | None = None

    def probabilities(self, text: LayerAttention | None = None) -> Float[Tensor, "batch head image token"]:
        """What the image attends to; see `text_probabilities`.

        Args:
            text: the same layer in a call with another text; its own text when None.
        """
        text = self if text is None else text
        return text_probabilities(self.query, text.key, self.scale, text.bias, self.image_key)

    def parted(self, joint: Order | None) -> LayerAttention:
        """With the image's keys, which stand before or behind those of the text (`CrossLayout.joint`), apart."""
        if joint is None:
            return self
        images = self.query.shape[2]
        rows = slice(images, None) if joint == "image first" else slice(self.key.shape[2] - images)
        rest = slice(images) if joint == "image first" else slice(self.key.shape[2] - images, None)
        bias = None if self.bias is None else self.bias[..., rows]
        return replace(self, key=self.key[:, :, rows], bias=bias, image_key=self.key[:, :, rest])


class _Look(TorchFunctionMode):
    """Looks at the arguments of each attention inside a watched layer, and hands them on."""

    def __init__(self, layout: CrossLayout) -> None:
        super().__init__()
        self._joint: Order | None = layout.joint
        self.layer: int | None = None
        self.seen: dict[int, list[LayerAttention]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        kwargs = kwargs or {}
        if self.layer is not None and func is F.scaled_dot_product_attention:
            seen = _attention(self.layer, *args, **kwargs).parted(self._joint)
            self.seen.setdefault(self.layer, []).append(seen)
        return func(*args, **kwargs)


def _attention(  # noqa: PLR0913 - the signature of `scaled_dot_product_attention`
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> LayerAttention:
    """The arguments of `scaled_dot_product_attention` as a record; a mask of truth values becomes a bias."""
    bias = attn_mask
    if bias is not None and bias.dtype == torch.bool:
        bias = torch.zeros_like(bias, dtype=query.dtype).masked_fill(~bias, -math.inf)
    return LayerAttention(layer, query, key, bias, 1 / math.sqrt(query.shape[-1]) if scale is None else scale)


@contextmanager
def watch_cross_layers(
    layout: CrossLayout, transformer: nn.Module, layers: Sequence[int], *, stop: bool = False
) -> Iterator[dict[int, list[LayerAttention]]]:
    """Inside it, every call of the transformer leaves what its cross attention computes with, by layer.

    The model computes the same bits: hooks return nothing, and attention gets the arguments it was given.

    Args:
        layout: of the transformer's class.
        transformer: the model.
        layers: the wanted ones.
        stop: end the forward after the last of them, with `StopForward`.
    """
    transformer = getattr(transformer, "_orig_mod", transformer)
    look, handles = _Look(layout), []
    modules = layout.layers(transformer)

    def enter(number: int) -> Callable[[object, object], None]:
        def hook(module: object, given: object) -> None:
            look.layer = number

        return hook

    def leave(number: int) -> Callable[[object, object, object], None]:
        def hook(module: object, given: object, output: object) -> None:
            look.layer = None
            if stop and number == max(layers):
                raise StopForward

        return hook

    try:
        for number in layers:
            handles.append(modules[number].register_forward_pre_hook(enter(number)))
            handles.append(modules[number].register_forward_hook(leave(number)))
        with look:
            yield look.seen
    finally:
        for handle in handles:
            handle.remove()
