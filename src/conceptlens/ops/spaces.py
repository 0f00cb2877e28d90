"""Similarity of concepts and image patches in each space, and its normalisation over the concepts."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from conceptlens.ops.accumulate import ScoreAccumulator
from conceptlens.ops.agreement import weigh_heads, weighted_mean
from conceptlens.ops.common_map import subtract_common
from conceptlens.values.recipe import CrossHeads, Normalization, Recipe

COSINE_TEMPERATURE = 0.1
"""What cosines are divided by, so that a softmax over them decides: they lie in -1..1."""


def vector_similarity(
    concepts: Float[Tensor, "batch concept dim"], image: Float[Tensor, "batch image dim"]
) -> Float[Tensor, "batch 1 concept image"]:
    """Dot products of vectors with all heads concatenated, accumulated in float32 or better.

    On attention outputs this is the output space, on values the value space (paper, equation 9).
    """
    precise = torch.promote_types(concepts.dtype, torch.float32)
    scores = concepts.to(precise) @ image.to(precise).transpose(1, 2)
    return rearrange(scores, "b c n -> b 1 c n")


def output_similarity(
    concepts: Float[Tensor, "batch concept dim"], image: Float[Tensor, "batch image dim"], recipe: Recipe, heads: int
) -> Float[Tensor, "batch 1 concept image"]:
    """Similarity of attention outputs, refined as the recipe says.

    Args:
        concepts: outputs with all heads concatenated.
        image: likewise.
        recipe: the settings.
        heads: of the attention.
    """
    concepts = normalize_concepts(concepts, recipe.normalize)
    if "cosine" in recipe.refine:
        concepts, image = centred_directions(concepts) / COSINE_TEMPERATURE, centred_directions(image)
    if "head-weights" in recipe.refine:
        return weigh_heads(concepts, image, heads)
    return vector_similarity(concepts, image)


def centred_directions(vectors: Float[Tensor, "batch row dim"]) -> Float[Tensor, "batch row dim"]:
    """Vectors less their mean, in unit length, in float32 or better; a single one keeps its direction."""
    precise = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    centred = precise - precise.mean(dim=1, keepdim=True) if precise.shape[1] > 1 else precise
    return torch.nn.functional.normalize(centred, dim=-1)


def cross_similarity(
    concepts: Float[Tensor, "batch head concept head_dim"],
    image: Float[Tensor, "batch head image head_dim"],
    heads: CrossHeads = "each",
) -> Float[Tensor, "batch scored concept image"]:
    """Dot products of queries and keys after QK-norm, unscaled: of each head, or their sum as one."""
    precise = torch.promote_types(concepts.dtype, torch.float32)
    scores = concepts.to(precise) @ image.to(precise).transpose(-1, -2)
    return scores.sum(dim=1, keepdim=True) if heads == "sum" else scores


def normalize_concepts(vectors: Float[Tensor, "*lead concept dim"], how: Normalization) -> Tensor:
    """Concept vectors scaled as the recipe says; the concept axis is the last but one."""
    if how == "unit":
        return torch.nn.functional.normalize(vectors, dim=-1)
    if how == "linear":
        shifted = vectors - vectors.amin(dim=-2, keepdim=True)
        return shifted / shifted.sum(dim=-2, keepdim=True).clamp_min(torch.finfo(shifted.dtype).tiny)
    return vectors


def reduce_heads(
    scores: Float[Tensor, "batch head concept image"], *, softmax: bool, temperature: float
) -> Float[Tensor, "batch concept image"]:
    """Softmax over the concepts for each head (if asked), then the mean of the heads."""
    if softmax:
        scores = (scores / temperature).softmax(dim=2)
    return scores.mean(dim=1)


def scores_of(raw: Float[Tensor, "batch head concept image"], recipe: Recipe) -> Float[Tensor, "batch concept image"]:
    """Scores of one layer and step: the mean of the heads, after the softmax where the recipe takes it here."""
    return reduce_heads(raw, softmax=recipe.softmax and recipe.softmax_at == "each", temperature=recipe.temperature)


def accumulator(recipe: Recipe, *, keep: bool) -> ScoreAccumulator:
    """Averages the scores of layers and steps as the recipe weighs them, and finishes the mean."""
    weigh = weighted_mean if "layer-weights" in recipe.refine else None
    return ScoreAccumulator(keep=keep, finish=lambda mean: _finished(mean, recipe), weigh=weigh)


def _finished(mean: Float[Tensor, "batch concept image"], recipe: Recipe) -> Float[Tensor, "batch concept image"]:
    """The softmax, where the recipe takes it of the mean, and the refinements of the mean."""
    if recipe.softmax and recipe.softmax_at == "mean":
        mean = (mean / recipe.temperature).softmax(dim=1)
    return subtract_common(mean) if "common-map" in recipe.refine else mean
