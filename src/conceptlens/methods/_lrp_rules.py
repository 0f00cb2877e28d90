"""Layer-wise relevance propagation, one closed-form rule per operation (Bach et al. 2015; alpha = 1, beta = 0).

Two sets of rules are in use. "orig" is that of the LRP and partial LRP baselines: signs are normalised apart, which
doubles the relevance at every linear layer, and sums are split plainly. "ours" (Chefer et al., arXiv 2012.09838)
conserves relevance. Biases are ignored. Softmax, activation functions, layer norms and scaling hand it on unchanged.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

EPSILON = 1e-9


def safe_divide(a: Tensor, b: Tensor) -> Tensor:
    """The quotient a / b, moved off the pole; 0 where b is 0."""
    moved = b.clamp(min=EPSILON) + b.clamp(max=EPSILON)
    return a / (moved + EPSILON * (moved == 0)) * (b != 0)


def linear_relevance(
    relevance: Float[Tensor, "*token out"], x: Float[Tensor, "*token in"], weight: Float[Tensor, "out in"], joint: bool
) -> Float[Tensor, "*token in"]:
    """Relevance of the input of y = x Wᵀ, by the contributions x_i w_oi that are positive (epsilon-free z+ rule).

    `joint` ("ours") divides by both kinds of positive contribution together; otherwise ("orig") by each kind alone, so
    that an output with both kinds hands on its relevance twice.
    """
    above, below, w_above, w_below = x.clamp(min=0), x.clamp(max=0), weight.clamp(min=0), weight.clamp(max=0)
    z_above, z_below = above @ w_above.mT, below @ w_below.mT
    if joint:
        s_above = s_below = safe_divide(relevance, z_above + z_below)
    else:
        s_above, s_below = safe_divide(relevance, z_above), safe_divide(relevance, z_below)
    return above * (s_above @ w_above) + below * (s_below @ w_below)


def matmul_relevance(
    relevance: Float[Tensor, "*batch row col"], a: Float[Tensor, "*batch row mid"], b: Float[Tensor, "*batch mid col"]
) -> tuple[Float[Tensor, "*batch row mid"], Float[Tensor, "*batch mid col"]]:
    """Relevance of both factors of a b; half each."""
    s = safe_divide(relevance, a @ b)
    return a * (s @ b.mT) / 2, b * (a.mT @ s) / 2


def add_relevance(
    relevance: Float[Tensor, "1 token width"],
    a: Float[Tensor, "1 token width"],
    b: Float[Tensor, "1 token width"],
    joint: bool,
) -> tuple[Float[Tensor, "1 token width"], Float[Tensor, "1 token width"]]:
    """Relevance of both terms of a + b, by their share; with `joint`, rescaled so that nothing is lost.

    The rescaling takes sums over the whole sample, so the batch must be one.
    """
    s = safe_divide(relevance, a + b)
    to_a, to_b = a * s, b * s
    if not joint:
        return to_a, to_b
    sum_a, sum_b, total = to_a.sum(), to_b.sum(), relevance.sum()
    size = sum_a.abs() + sum_b.abs()
    to_a = to_a * safe_divide(safe_divide(sum_a.abs(), size) * total, sum_a)
    to_b = to_b * safe_divide(safe_divide(sum_b.abs(), size) * total, sum_b)
    return to_a, to_b


def pixel_relevance(
    relevance: Float[Tensor, "1 width rows cols"], pixels: Float[Tensor, "1 3 height width_in_pixels"], conv: nn.Conv2d
) -> Float[Tensor, "1 3 height width_in_pixels"]:
    """Relevance of the input of the patch convolution, whose values are bounded by the image's own extremes (z^B)."""
    weight, stride = conv.weight, conv.stride
    above, below = weight.clamp(min=0), weight.clamp(max=0)
    low, high = pixels.min().expand_as(pixels), pixels.max().expand_as(pixels)
    terms = ((1, pixels, weight), (-1, low, above), (-1, high, below))
    z = sum(sign * F.conv2d(x, w, stride=stride) for sign, x, w in terms) + EPSILON
    s = relevance / z
    return sum(sign * x * F.conv_transpose2d(s, w, stride=stride) for sign, x, w in terms)  # type: ignore[return-value]
