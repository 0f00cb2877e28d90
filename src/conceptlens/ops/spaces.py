"""Similarity of concepts and image patches in each space, and its normalisation over the concepts."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from conceptlens.ops.accumulate import ScoreAccumulator
from conceptlens.values.recipe import CrossHeads, Normalization, Recipe


def vector_similarity(
    concepts: Float[Tensor, "batch concept dim"], image: Float[Tensor, "batch image dim"]
) -> Float[Tensor, "batch 1 concept image"]:
    """Dot products of vectors with all heads concatenated, accumulated in float32 or better.

    On attention outputs this is the output space, on values the value space (paper, equation 9).
    """
    precise = torch.promote_types(concepts.dtype, torch.float32)
    scores = concepts.to(precise) @ image.to(precise).transpose(1, 2)
    return rearrange(scores, "b c n -> b 1 c n")


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
    """Averages the scores of layers and steps, before the softmax where the recipe takes it of their mean."""
    if not recipe.softmax or recipe.softmax_at == "each":
        return ScoreAccumulator(keep=keep)
    return ScoreAccumulator(keep=keep, finish=lambda scores: (scores / recipe.temperature).softmax(dim=1))
