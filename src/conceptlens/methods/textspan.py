"""CLIP's image embedding, split over image tokens (Gandelsman et al., arXiv 2310.05916; row "TextSpan" of 2502.04320).

The class token's residual stream is the sum of K = 2 L + 1 terms (L attentions, L MLPs, the embedding), and each
attention output the sum over tokens n of u_l[n] = sum_h A[h, 0, n] W_o^h v[h, n] + b_o / T. Through the final norm
(mean mu, deviation sigma, affine gamma, beta) and the projection W, token n gives

    e[n] = W ((sum_l u_l[n] - L mu / (K T)) gamma / sigma + L beta / (K T)) / |z|,

so that all e[n] and the terms of MLPs and embedding sum to z / |z|. The map is <e[n], t_c>. (The search for directions
that gave the method its name is not needed for maps.)
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from conceptlens.methods import register
from conceptlens.methods._selfattention import first_row
from conceptlens.methods._vit import CLIP, ViTMethod
from conceptlens.methods._vit_view import Trace, ViTView, record, split_heads
from conceptlens.methods.base import MethodInfo

_FAMILY = replace(CLIP, hub_id="laion/CLIP-ViT-H-14-laion2B-s32B-b79K")


def token_contributions(view: ViTView, trace: Trace) -> Float[Tensor, "token out"]:
    """e[n] for the class token (0) and the patches. Needs `q`, `k`, `v`, and the last block's `x2` and `mlp`."""
    depth, last = len(view.blocks), trace.blocks[len(view.blocks) - 1]
    length, terms = trace.tokens.shape[1], 2 * depth + 1
    u = torch.zeros_like(trace.tokens[0])
    for number, block in enumerate(view.blocks):
        seen = trace.blocks[number]
        weights = first_row(seen["q"], seen["k"], block.heads)
        values = split_heads(seen["v"], block.heads)[0] * weights[..., None]
        u = u + values.transpose(0, 1).flatten(1) @ block.o.weight.mT
        if block.o.bias is not None:
            u = u + block.o.bias / length
    residual, norm = (last["x2"] + last["mlp"])[0, 0], view.final_norm
    mu, sigma = residual.mean(), (residual.var(correction=0) + norm.eps).sqrt()
    share = depth / (terms * length)
    normed = (u - share * mu) * norm.weight / sigma + share * norm.bias
    return normed @ view.head.weight.mT / trace.out.norm()


@register
class TextSpan(ViTMethod):
    """What each patch adds to CLIP's image embedding, in the direction of the concept's text."""

    name = "textspan"
    summary = "what each patch adds to CLIP's image embedding, along the text"
    families = (_FAMILY,)
    defaults = {"templates": "ensemble"}
    choices = {"templates": ("single", "ensemble")}
    info = MethodInfo(text_conditioned=True, backbone=_FAMILY.hub_id)

    def _scores(self, pixels: Tensor, names: tuple[str, ...]) -> Float[Tensor, "concept rows cols"]:
        trace = record(self._view, pixels, {"q", "k", "v", "x2", "mlp"})
        scores = self._targets(trace.out, names) @ token_contributions(self._view, trace)[1:].mT
        return scores.unflatten(-1, self._view.grid)
