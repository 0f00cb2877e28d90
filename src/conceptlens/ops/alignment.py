"""Losses on cross-attention maps, as pure functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from conceptlens.values.errors import RecipeError

TSAMLoss = Literal["abs", "cos_rows", "release_default"]


def smooth(maps: Float[Tensor, "map rows cols"], size: int = 3, sigma: float = 0.5) -> Float[Tensor, "map rows cols"]:
    """Smoothing with reflected borders, as all four methods' code does it.

    The weights are `exp(-(x / 2 sigma)^2)`: a Gaussian of sqrt(2) times `sigma`.

    Raises:
        RecipeError: when the maps are too small to be reflected at their borders.
    """
    rows, cols = maps.shape[-2:]
    if size // 2 >= min(rows, cols):
        raise RecipeError(
            f"a smoothing kernel of {size} is too large for maps of {rows}x{cols}. Smooth less, or paint larger."
        )
    at = torch.arange(size, dtype=maps.dtype, device=maps.device) - (size - 1) / 2
    line = torch.exp(-((at / (2 * sigma)) ** 2))
    kernel = torch.outer(line, line)
    padded = F.pad(maps[:, None], (size // 2,) * 4, mode="reflect")
    return F.conv2d(padded, (kernel / kernel.sum())[None, None])[:, 0]


def cosine_matrix(maps: Float[Tensor, "token rows cols"]) -> Float[Tensor, "token token"]:
    """C: cosine similarity over pixels of every two maps, in 0..1 for attention; the diagonal is 1."""
    unit = F.normalize(maps.flatten(1), dim=1, eps=1e-8)
    return unit @ unit.T


def row_normalized(matrix: Float[Tensor, "token token"], causal: bool = True) -> Float[Tensor, "token token"]:
    """S: rows divided by their sum, over the tokens up to the row's own if `causal`."""
    visible = matrix.tril() if causal else matrix
    return visible / visible.sum(-1, keepdim=True)


def target_matrix(
    attention: Float[Tensor, "token token"], gamma: float = 1.0, causal: bool = True
) -> Float[Tensor, "token token"]:
    """T: text self-attention with unit rows, raised to the power `gamma`, with unit rows again.

    The second normalisation matters: without it S is above T^gamma nearly everywhere, and the gradient of the
    absolute loss is zero. The first one keeps small rows from underflowing.
    """
    visible = attention.tril() if causal else attention
    return row_normalized(row_normalized(visible, causal).pow(gamma), causal)


def tsam_loss(
    maps: Float[Tensor, "token rows cols"],
    target: Float[Tensor, "token token"],
    kind: TSAMLoss = "abs",
    causal: bool = True,
) -> Float[Tensor, ""]:
    """Distance of the maps' similarities to `target` (arXiv 2411.15236), from the second token on.

    "abs" is the paper's: absolute differences of rows, weighted by (row + 1) / tokens. "cos_rows" replaces the absolute
    difference by one minus the cosine. "release_default" is what the official code runs as it ships: cosine of rows
    without diagonal, of C in place of S, weighted by row / 5. None of them can reach 0, since C's diagonal is 1.

    A target that is not `causal` has full rows: they weigh alike, from the first on ("abs" and "cos_rows").
    """
    cosines = cosine_matrix(maps)
    count = len(target)
    if not causal:
        return _distances(target, row_normalized(cosines, causal=False), kind).sum()
    rows = torch.arange(count, device=maps.device, dtype=maps.dtype)
    if kind == "release_default":
        distance = 1 - _row_cosines(target.tril(-1)[1:], cosines.tril(-1)[1:])
        return (0.2 * rows[1:] * distance).sum()
    return ((rows + 1) / count * _distances(target, row_normalized(cosines), kind))[1:].sum()


def _distances(target: Tensor, similar: Tensor, kind: TSAMLoss) -> Tensor:
    return 1 - _row_cosines(target, similar) if kind == "cos_rows" else (target - similar).abs().sum(-1)


def _row_cosines(first: Tensor, second: Tensor) -> Tensor:
    """Without torch's floor under the norms: below a strong diagonal a powered row is as small as 1e-12."""
    tiny = torch.finfo(first.dtype).tiny
    scaled = first / first.amax(-1, keepdim=True).clamp_min(tiny)
    return (F.normalize(scaled, dim=-1, eps=tiny) * F.normalize(second, dim=-1, eps=tiny)).sum(-1)


def neglect(
    maps: Float[Tensor, "key rows cols"], words: Sequence[Sequence[int]], smoothing: tuple[int, float]
) -> Float[Tensor, ""]:
    """Attend-and-Excite's loss (arXiv 2301.13826): how far the most neglected word is from owning a place, in 0..1.

    Maps of all positions but the first and last compete in a softmax with temperature 1/100; a word's attention at its
    best place, after smoothing, should be 1.
    """
    shares = (100 * maps[1:-1]).softmax(0)
    chosen = torch.stack([shares[[p - 1 for p in places]].mean(0) for places in words])
    return (1 - smooth(chosen, *smoothing).flatten(1).amax(1)).clamp_min(0).amax()


def contrast(
    features: Float[Tensor, "item feature"], labels: Int[Tensor, " item"], temperature: float
) -> Float[Tensor, ""]:
    """NT-Xent with labels (CONFORM, arXiv 2312.06059): items of one label attract, others repel; cosine similarity.

    The mean over ordered pairs of one label of `-log(exp(s_pair) / (exp(s_pair) + sum of exp(s) over other labels))`;
    0 with a zero gradient where no label has two items.
    """
    unit = F.normalize(features, dim=1, eps=1e-8)
    scores = unit @ unit.T / temperature
    same: Bool[Tensor, "item item"] = labels[:, None] == labels
    pairs = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    others = scores.masked_fill(same, float("-inf")).logsumexp(1, keepdim=True)
    if not pairs.any():
        return 0 * scores.sum()
    return (torch.logaddexp(scores, others) - scores)[pairs].mean()


def distance_matrix(maps: Float[Tensor, "token rows cols"]) -> Float[Tensor, "token token"]:
    """Symmetric Kullback-Leibler divergence, half of each direction, of maps as distributions over pixels."""
    log_share = maps.flatten(1).clamp_min(torch.finfo(maps.dtype).tiny).log().log_softmax(1)
    share = log_share.exp()
    cross = share @ log_share.T
    own = cross.diagonal()
    return 0.5 * (own[:, None] - cross + own - cross.T)


def binding(
    maps: Float[Tensor, "key rows cols"], groups: Sequence[Sequence[Sequence[int]]], positions: Sequence[int]
) -> Float[Tensor, ""]:
    """SynGen's loss (arXiv 2306.08877): modifiers near their noun, and both far from the prompt's other tokens.

    Sum over (modifier, noun) pairs of their distance, minus the mean over other tokens of the two words' distance to
    them.
    """
    words = [places for group in groups for places in group]
    others = [(p,) for p in positions if all(p not in places for places in words)]
    distances = distance_matrix(torch.stack([maps[list(places)].mean(0) for places in [*words, *others]]))
    loss, first = distances.new_zeros(()), 0
    for group in groups:
        noun, own = first + len(group) - 1, range(first, first + len(group))
        outside = [n for n in range(len(distances)) if n not in own]
        for modifier in own[:-1]:
            loss = loss + distances[modifier, noun]
            if outside:
                loss = loss - 0.5 * (distances[modifier, outside] + distances[noun, outside]).mean()
        first += len(group)
    return loss
