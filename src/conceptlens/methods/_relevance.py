"""The walk of relevance from the output of a vision transformer back to its attention matrices and pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from conceptlens.methods._lrp_rules import add_relevance, linear_relevance, matmul_relevance, pixel_relevance
from conceptlens.methods._vit import ViTMethod
from conceptlens.methods._vit_view import TAPS, Trace, ViTView, attention, merge_heads, split_heads

ALL_TAPS = frozenset(name for pair in TAPS.values() for name in pair if name)


@dataclass(frozen=True)
class Relevance:
    """Relevance of what lies between output and input.

    Attributes:
        attention: block -> relevance of its attention probabilities, (1, head, token, token).
        inputs: block -> relevance of its input, (1, token, width).
        branches: block -> relevance that enters its attention branch, a number.
        pixels: (1, 3, side, side); None unless asked for.
    """

    attention: Mapping[int, Tensor]
    inputs: Mapping[int, Tensor]
    branches: Mapping[int, Tensor]
    pixels: Tensor | None = None


def walk_back(
    view: ViTView, trace: Trace, start: Float[Tensor, "1 out"], *, joint: bool, last: int = 0, pixels: bool = False
) -> Relevance:
    """Relevance by layer-wise relevance propagation.

    Args:
        view: the model.
        trace: one forward, with all tensors of its blocks from `last` on.
        start: relevance of the output.
        joint: the rules "ours", else "orig"; see `_lrp_rules`.
        last: the walk ends at this block's attention matrix, unless it goes on to the pixels.
        pixels: whether to go on; only with `last=0`.
    """
    token = linear_relevance(start, trace.head_input, view.head.weight, joint)
    r = torch.zeros_like(trace.embedded)
    r[:, 0] = token
    by_attention, by_input, branches = {}, {}, {}
    for number in reversed(range(last, len(view.blocks))):
        block, seen = view.blocks[number], trace.blocks[number]
        skipped, r = add_relevance(r, seen["x2"], seen["mlp"], joint)
        r = linear_relevance(r, seen["hidden"], block.fc2.weight, joint)
        r = skipped + linear_relevance(r, seen["normed2"], block.fc1.weight, joint)
        skipped, r = add_relevance(r, seen["x"], seen["attended"], joint)
        branches[number] = r.sum()
        r = linear_relevance(r, seen["context"], block.o.weight, joint)
        a, v = attention(view, trace, number), split_heads(seen["v"], block.heads)
        of_a, of_v = matmul_relevance(split_heads(r, block.heads), a, v)
        by_attention[number] = of_a
        if number == last and not pixels:
            break
        q, k = (split_heads(seen[name], block.heads) for name in ("q", "k"))
        of_q, of_kt = matmul_relevance(of_a, q, k.mT)
        for of, layer in ((of_q, block.q), (of_kt.mT, block.k), (of_v, block.v)):
            skipped = skipped + linear_relevance(merge_heads(of), seen["normed"], layer.weight, joint)
        by_input[number] = r = skipped
    return Relevance(by_attention, by_input, branches, _of_pixels(view, trace, r, joint) if pixels else None)


def _of_pixels(view: ViTView, trace: Trace, r: Tensor, joint: bool) -> Tensor:
    of_tokens, _ = add_relevance(r, trace.tokens, view.positions.expand_as(trace.tokens), joint)
    of_patches = of_tokens[:, 1:].mT.unflatten(-1, view.grid)
    return pixel_relevance(of_patches, trace.pixels, view.patches)


class RelevanceMethod(ViTMethod):
    """A ViT method that starts from relevance: one of the class, or of the concept's text through <z, t_c>.

    Small denominators enlarge rounding from block to block: `dtype="float64"` gives maps that do not depend on it.
    """

    defaults = {"rules": "orig", "templates": "single", "dtype": "float32"}
    choices = {"rules": ("orig", "ours"), "templates": ("single", "ensemble"), "dtype": ("float32", "float64")}

    def _walk(self, trace: Trace, target: Float[Tensor, " out"], *, last: int = 0, pixels: bool = False) -> Relevance:
        joint, start = self._options["rules"] == "ours", target[None]
        if self._opened.tokenizer is not None:
            out = trace.out.detach()  # |z| is a positive factor, taken as constant
            start = linear_relevance(torch.ones_like(out[:, :1]), out, target[None], joint)
        return walk_back(self._view, trace, start, joint=joint, last=last, pixels=pixels)
