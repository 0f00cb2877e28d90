"""Cross-attention maps of one U-Net forward, with their gradient; its output stays the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from conceptlens.values.early_exit import StopForward
from conceptlens.values.errors import ModelError
from conceptlens.values.models import Model, Module
from conceptlens.watch.prompt_text import at_least_float32

Report = Callable[[str, Any, Tensor, Tensor], None]
"""Called with a layer's name, its attention module, the hidden states (batch, image, dim) and the encoded text."""


class MapSink:
    """Collects the maps of layers whose image side has `rows * cols` positions.

    Attributes:
        size: (rows, cols).
        maps: (batch, pixel, key) by layer, in float32 or better, with graph.
        seen: the numbers of image positions that were met.
        expected: how many layers have this size, once known, in advance or from a whole forward; from then on
            forwards end early.
    """

    def __init__(self, size: tuple[int, int], *, early_exit: bool = True, expected: int | None = None) -> None:
        self.size, self.early_exit, self.expected = size, early_exit, expected
        self.maps: dict[str, Tensor] = {}
        self.seen: set[int] = set()

    def wants(self, pixels: int) -> bool:
        self.seen.add(pixels)
        return pixels == self.size[0] * self.size[1]

    def add(self, name: str, probabilities: Tensor) -> None:
        # Gradient checkpointing runs a layer again during the backward pass: the first maps are those with the graph.
        self.maps.setdefault(name, probabilities)
        if self.early_exit and len(self.maps) == self.expected:
            raise StopForward

    def mean(self) -> Float[Tensor, "batch key rows cols"]:
        """The mean over layers.

        Raises:
            ModelError: when no layer has the wanted size.
        """
        if not self.maps:
            rows, cols = self.size
            have = ", ".join(map(str, sorted(self.seen)))
            raise ModelError(
                f"no cross-attention layer has {rows}x{cols} = {rows * cols} positions; there are layers with {have}. "
                "Give attention_size=(rows, cols)."
            )
        self.expected = len(self.maps)
        mean = torch.stack(list(self.maps.values())).mean(0)
        return mean.transpose(1, 2).unflatten(2, self.size)


class RunningMaps:
    """The mean, over the layers and steps of a pipeline's own call, of the maps of one size.

    Under classifier-free guidance the rows of the prompt are the last ones. Passes that take a gradient are guidance's.

    Args:
        size: (rows, cols).
        images: how many there are.
    """

    def __init__(self, size: tuple[int, int], images: int) -> None:
        self._size, self._images = size, images
        self._total: Tensor | None = None
        self._count = 0

    def wants(self, pixels: int) -> bool:
        return pixels == self._size[0] * self._size[1] and not torch.is_grad_enabled()

    def add(self, name: str, probabilities: Tensor) -> None:
        if len(probabilities) not in (self._images, 2 * self._images):
            raise ModelError(
                f"the U-Net was called with {len(probabilities)} rows for {self._images} picture(s), where one of the "
                "prompt and one of the negative prompt were expected for each: whose rows are whose cannot be known. "
                "Turn that guidance off."
            )
        of_prompt = probabilities[-self._images :]
        self._total = of_prompt if self._total is None else self._total + of_prompt
        self._count += 1

    def mean(self) -> Float[Tensor, "image key rows cols"]:
        """On the CPU, in float32.

        Raises:
            ModelError: when no layer has the wanted size, or the maps are NaN.
        """
        if self._total is None:
            raise ModelError(
                f"no cross-attention layer has {self._size[0]}x{self._size[1]} positions, so there are no maps."
            )
        return (self._total / self._count).transpose(1, 2).unflatten(2, self._size).float().cpu()


class _Watching:
    """An attention processor that reports what comes in, and then does what the layer's own processor does."""

    def __init__(self, inner: Callable[..., Tensor], name: str, report: Report) -> None:
        self._inner, self._name, self._report = inner, name, report
        # `Attention.forward` looks at this signature to tell which keyword arguments the processor takes.
        self.__call__ = inner.__call__

    def __call__(
        self,
        attn: Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        if encoder_hidden_states is not None:
            self._report(self._name, attn, hidden_states, encoder_hidden_states)
        return self._inner(attn, hidden_states, encoder_hidden_states, *args, **kwargs)


@contextmanager
def watch_cross_attention(layers: Mapping[str, Module], report: Report) -> Iterator[None]:
    """Reports every call of some cross-attention layers; the U-Net computes the same bits.

    Args:
        layers: the attention modules by name. Their processors are back afterwards.
        report: is called with a layer's name, its module, the hidden states and the encoded text.
    """
    before = {name: layer.processor for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.set_processor(_Watching(before[name], name, report))
        yield
    finally:
        for name, layer in layers.items():
            layer.set_processor(before[name])


def cross_layers(unet: Model, *, middle: bool = True) -> dict[str, Module]:
    """The cross-attention modules of a U-Net by name, in their order; without `middle` of the down and up blocks."""
    named = {name: module for name, module in unet.named_modules() if name.split(".")[-1] == "attn2"}
    return {name: module for name, module in named.items() if middle or not name.startswith("mid_block")}


def queries(attn: Module, hidden: Float[Tensor, "batch image dim"]) -> Float[Tensor, "batch head image head_dim"]:
    """Image queries as the layer's own processor makes them."""
    split = rearrange(attn.to_q(hidden), "b n (h d) -> b h n d", h=attn.heads)
    return split if attn.norm_q is None else attn.norm_q(split)


def keys(attn: Module, context: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch head token head_dim"]:
    """Text keys as the layer's own processor makes them."""
    normed = attn.norm_encoder_hidden_states(context) if attn.norm_cross else context
    split = rearrange(attn.to_k(normed), "b n (h d) -> b h n d", h=attn.heads)
    return split if attn.norm_k is None else attn.norm_k(split)


@contextmanager
def capturing(unet: Model, sink: MapSink | RunningMaps) -> Iterator[None]:
    """Captures the maps of every cross-attention layer of the sink's size; the same processors are back afterwards.

    Raises:
        ModelError: when a layer does more to queries or keys than projecting them, or projects them otherwise.
    """
    layers = cross_layers(unet)
    for name, layer in layers.items():
        norms = ("norm_q", "norm_k", "norm_cross", "group_norm", "spatial_norm")
        if any(getattr(layer, norm, None) is not None for norm in norms):
            raise ModelError(f"{name} normalises its queries or keys; guidance reads plain cross-attention only.")
        if isinstance(layer.processor, torch.nn.Module) and any(True for _ in layer.processor.parameters()):
            raise ModelError(
                f"{name} has a {type(layer.processor).__name__} with additional weights, so its maps are not those of "
                "plain cross-attention. Set another processor, or merge its weights."
            )

    def capture(name: str, attn: Module, hidden: Tensor, text: Tensor) -> None:
        if sink.wants(hidden.shape[1]):
            query, key = (
                at_least_float32(side).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
                for side in (attn.to_q(hidden), attn.to_k(text))
            )
            sink.add(name, (query @ key.transpose(-1, -2) * attn.scale).softmax(-1).mean(1))

    with watch_cross_attention(layers, capture):
        yield


@contextmanager
def frozen(unet: Model, *, checkpointing: bool) -> Iterator[None]:
    """Weights take no gradient, so that the backward pass keeps less; gradient checkpointing if asked for."""
    learning = [weight for weight in unet.parameters() if weight.requires_grad]
    switch = checkpointing and not unet.is_gradient_checkpointing
    try:
        for weight in learning:
            weight.requires_grad_(False)
        if switch:
            unet.enable_gradient_checkpointing()
        yield
    finally:
        for weight in learning:
            weight.requires_grad_(True)
        if switch:
            unet.disable_gradient_checkpointing()
