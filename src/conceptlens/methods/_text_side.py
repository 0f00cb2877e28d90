"""The text side of a diffusion transformer's own pass: queries and keys of the prompt's tokens, block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from conceptlens.families.base import DiTAdapter
from conceptlens.values.errors import ModelError
from conceptlens.values.models import Module

_SIDES = ("query", "key")


@dataclass
class TextSide:
    """What the prompt's tokens left behind in each watched block, after QK-norm, before rotation.

    Rotation is the identity for the text of FLUX.1 (all positions zero), and Stable Diffusion 3 has none.
    """

    query: dict[int, Float[Tensor, "batch head token head_dim"]] = field(default_factory=dict)
    key: dict[int, Float[Tensor, "batch head token head_dim"]] = field(default_factory=dict)

    def check(self, layers: Sequence[int]) -> None:
        """Raises `ModelError` for a block that ran unseen."""
        missing = [layer for layer in layers if layer not in self.query or layer not in self.key]
        if missing:
            raise ModelError(
                f"block {missing[0]} ran without passing its text side by: its projections are fused or compiled. "
                "Call pipeline.transformer.unfuse_qkv_projections() first, or load it without torch.compile."
            )


@contextmanager
def watch_text(adapter: DiTAdapter, layers: Sequence[int]) -> Iterator[TextSide]:
    """Forward hooks on the text-side projections (or their norms) of some blocks; gone afterwards."""
    seen, handles = TextSide(), []
    try:
        for layer in layers:
            block: Any = adapter.blocks()[layer]
            for side in _SIDES:
                source = adapter.text_taps(block)[side].module
                handles.append(source.register_forward_hook(_keep(adapter, block, seen, side, layer)))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _keep(adapter: DiTAdapter, block: Module, seen: TextSide, side: str, layer: int) -> Callable[..., None]:
    def keep(module: Module, given: object, output: Tensor) -> None:
        getattr(seen, side)[layer] = adapter.heads(block, output)

    return keep


def text_to_image(
    query: Float[Tensor, "batch head chosen head_dim"],
    text_key: Float[Tensor, "batch head token head_dim"],
    image_key: Float[Tensor, "batch head image head_dim"],
    softmax: bool,
) -> Float[Tensor, "chosen image"]:
    """Rows of the model's own joint attention that belong to some text tokens, over the image columns."""
    precise = torch.promote_types(query.dtype, torch.float32)
    to_image = query.to(precise) @ image_key.to(precise).transpose(-1, -2)
    if softmax:
        to_text = query.to(precise) @ text_key.to(precise).transpose(-1, -2)
        joint = torch.cat([to_text, to_image], dim=-1) / math.sqrt(query.shape[-1])
        to_image = joint.softmax(dim=-1)[..., text_key.shape[2] :]
    return to_image.mean(dim=(0, 1))


def image_to_text(
    text_key: Float[Tensor, "batch head token head_dim"],
    image_query: Float[Tensor, "batch head image head_dim"],
    softmax: bool,
) -> Float[Tensor, "token image"]:
    """Dot products of text keys and image queries, averaged over heads, then a softmax over the tokens."""
    precise = torch.promote_types(text_key.dtype, torch.float32)
    mean = (text_key.to(precise) @ image_query.to(precise).transpose(-1, -2)).mean(dim=1)
    return (mean.softmax(dim=1) if softmax else mean).mean(dim=0)
