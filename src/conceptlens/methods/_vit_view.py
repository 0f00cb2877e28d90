"""One view of two vision transformers, an ImageNet classifier and CLIP's image tower, and what a forward leaves behind.

Attention probabilities and their gradients are computed from what the linear layers saw, so any attention kernel will
do: A = softmax(q kᵀ / √d), and since A is used in A v alone, ∂y/∂A = (∂y/∂(A v)) vᵀ.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import CLIPModel

from conceptlens.values.models import Model, Module

Part = TypeVar("Part", bound=nn.Module)
TAPS = {
    "norm1": ("x", "normed"),
    "q": (None, "q"),
    "k": (None, "k"),
    "v": (None, "v"),
    "o": ("context", "attended"),
    "norm2": ("x2", "normed2"),
    "fc2": ("hidden", "mlp"),
}
"""Layer of a block -> names under which its input and its output are kept, each (1, token, its width)."""


@dataclass(frozen=True)
class BlockView:
    """The layers of one pre-norm transformer block: x2 = x + o(attention), x3 = x2 + fc2(act(fc1(norm2(x2))))."""

    norm1: nn.LayerNorm
    q: nn.Linear
    k: nn.Linear
    v: nn.Linear
    o: nn.Linear
    norm2: nn.LayerNorm
    fc1: nn.Linear
    fc2: nn.Linear
    heads: int


@dataclass(frozen=True)
class ViTView:
    """A vision transformer of a fixed square input.

    Attributes:
        run: pixels (1, 3, side, side) to logits, or to CLIP's embedding before it is normalised: (1, out).
        embeddings: the module whose output is tokens plus positions.
        patches: the patch convolution.
        first_token: the class token, (1, 1, width).
        positions: the position embeddings, (1, token, width).
        blocks: in order.
        final_norm: the norm before the head.
        head: from the class token to the output of `run`.
        side: of the input in pixels.
    """

    run: Callable[[Tensor], Tensor]
    embeddings: nn.Module
    patches: nn.Conv2d
    first_token: Tensor
    positions: Tensor
    blocks: tuple[BlockView, ...]
    final_norm: nn.LayerNorm
    head: nn.Linear
    side: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return (self.side // self.patches.stride[0],) * 2  # type: ignore[return-value]


@dataclass(frozen=True)
class Trace:
    """What one forward left behind.

    Attributes:
        out: the output of `ViTView.run`.
        head_input: the normed class token, (1, width).
        pixels: the input.
        tokens: class token and patches before positions are added, (1, token, width).
        embedded: after, (1, token, width).
        blocks: number of a block -> tensors by the names of `TAPS`, as far as they were asked for.
    """

    out: Tensor
    head_input: Tensor
    pixels: Tensor
    tokens: Tensor
    embedded: Tensor
    blocks: Mapping[int, Mapping[str, Tensor]]


def view_of(model: Model) -> ViTView:
    """The view of a `ViTForImageClassification` or a `CLIPModel`."""
    return _view_clip(model) if isinstance(model, CLIPModel) else _view_vit(model)


def part(module: Module, kind: type[Part], *paths: str) -> Part:
    """The first of several paths that leads to such a layer; names have changed between versions of transformers."""
    for path in paths:
        reached: object = module
        for name in path.split("."):
            reached = getattr(reached, name, None)
        if isinstance(reached, kind):
            return reached
    raise AttributeError(f"{type(module).__name__} has none of: {', '.join(paths)}")


def vit_blocks(root: Module) -> list[Any]:
    """The blocks of a ViT or DINOv2 model, in order."""
    return list(part(root, nn.ModuleList, "layers", "encoder.layer"))


def _view_vit(model: Model) -> ViTView:
    root = model.vit
    blocks = tuple(
        BlockView(
            norm1=block.layernorm_before,
            q=part(block, nn.Linear, "attention.q_proj", "attention.attention.query"),
            k=part(block, nn.Linear, "attention.k_proj", "attention.attention.key"),
            v=part(block, nn.Linear, "attention.v_proj", "attention.attention.value"),
            o=part(block, nn.Linear, "attention.o_proj", "attention.output.dense"),
            norm2=block.layernorm_after,
            fc1=part(block, nn.Linear, "mlp.fc1", "intermediate.dense"),
            fc2=part(block, nn.Linear, "mlp.fc2", "output.dense"),
            heads=model.config.num_attention_heads,
        )
        for block in vit_blocks(root)
    )
    return ViTView(
        run=lambda pixels: model(pixels).logits,
        embeddings=root.embeddings,
        patches=root.embeddings.patch_embeddings.projection,
        first_token=root.embeddings.cls_token,
        positions=root.embeddings.position_embeddings,
        blocks=blocks,
        final_norm=root.layernorm,
        head=model.classifier,
        side=model.config.image_size,
    )


def _view_clip(model: Model) -> ViTView:
    tower = model.vision_model
    blocks = tuple(
        BlockView(
            norm1=block.layer_norm1,
            q=block.self_attn.q_proj,
            k=block.self_attn.k_proj,
            v=block.self_attn.v_proj,
            o=block.self_attn.out_proj,
            norm2=block.layer_norm2,
            fc1=block.mlp.fc1,
            fc2=block.mlp.fc2,
            heads=tower.config.num_attention_heads,
        )
        for block in tower.encoder.layers
    )
    return ViTView(
        run=lambda pixels: model.get_image_features(pixel_values=pixels).pooler_output,
        embeddings=tower.embeddings,
        patches=tower.embeddings.patch_embedding,
        first_token=tower.embeddings.class_embedding[None, None],
        positions=tower.embeddings.position_embedding.weight[None],
        blocks=blocks,
        final_norm=tower.post_layernorm,
        head=model.visual_projection,
        side=tower.config.image_size,
    )


@contextmanager
def tapped(taps: Sequence[tuple[nn.Module, Callable[[Tensor, Tensor], None]]]) -> Iterator[None]:
    """Shows the first input and the output of modules to functions while the block lasts; no hook outlives it."""
    handles: list[RemovableHandle] = []
    try:
        for module, see in taps:
            handles.append(module.register_forward_hook(lambda _, inputs, output, see=see: see(inputs[0], output)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def record(
    view: ViTView,
    pixels: Float[Tensor, "1 3 side side"],
    names: Collection[str],
    *,
    first: int = 0,
    grad: bool = False,
) -> Trace:
    """One forward.

    Args:
        view: the model.
        pixels: its normalised input.
        names: tensors to keep of each block, as in `TAPS`.
        first: the first block to keep anything of.
        grad: build the graph from the attention of block `first` onwards, for `attention_gradients`.
    """
    blocks: dict[int, dict[str, Tensor]] = {number: {} for number in range(first, len(view.blocks))}
    kept: dict[str, Tensor] = {}

    def keep(store: dict[str, Tensor], before: str | None, after: str | None) -> Callable[[Tensor, Tensor], None]:
        def see(given: Tensor, made: Tensor) -> None:
            store.update({name: t for name, t in ((before, given), (after, made)) if name is not None})

        return see

    taps = [
        (view.patches, keep(kept, None, "patches")),
        (view.embeddings, keep(kept, None, "embedded")),
        (view.head, keep(kept, "head_input", None)),
    ]
    for number, store in blocks.items():
        for layer, (before, after) in TAPS.items():
            before, after = (name if name in names else None for name in (before, after))
            if before or after:
                taps.append((getattr(view.blocks[number], layer), keep(store, before, after)))
    with torch.set_grad_enabled(grad), tapped(taps), _graph_from(view.blocks[first].o) if grad else nullcontext():
        out = view.run(pixels)
    tokens = torch.cat([view.first_token.detach(), kept["patches"].flatten(2).mT], dim=1)
    return Trace(out, kept["head_input"], pixels, tokens, kept["embedded"], blocks)


@contextmanager
def _graph_from(layer: nn.Module) -> Iterator[None]:
    """Lets the graph start at the input of a layer: what comes before costs no memory."""
    handle = layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].detach().requires_grad_(),))
    try:
        yield
    finally:
        handle.remove()


def split_heads(tokens: Float[Tensor, "1 token width"], heads: int) -> Float[Tensor, "1 head token head_dim"]:
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(tokens: Float[Tensor, "1 head token head_dim"]) -> Float[Tensor, "1 token width"]:
    return tokens.transpose(1, 2).flatten(2)


def attention(view: ViTView, trace: Trace, number: int) -> Float[Tensor, "1 head token token"]:
    """Attention probabilities of a block; each row sums to one. Needs `q` and `k`."""
    block, heads = trace.blocks[number], view.blocks[number].heads
    q, k = split_heads(block["q"].detach(), heads), split_heads(block["k"].detach(), heads)
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1)


def attention_gradients(view: ViTView, trace: Trace, score: Tensor) -> dict[int, Float[Tensor, "1 head token token"]]:
    """Gradients of a scalar with respect to the attention probabilities of every recorded block.

    Needs `v` and `context`, and a trace made with `grad`. The graph is kept, for the next score.
    """
    numbers = sorted(trace.blocks)
    found = torch.autograd.grad(score, [trace.blocks[n]["context"] for n in numbers], retain_graph=True)
    made = {}
    for number, gradient in zip(numbers, found, strict=True):
        heads = view.blocks[number].heads
        v = split_heads(trace.blocks[number]["v"].detach(), heads)
        made[number] = split_heads(gradient, heads) @ v.mT
    return made
