"""The paper's equations, token by token. Slow on purpose."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def attention_by_loops(
    q: Tensor, k: Tensor, v: Tensor, image_k: Tensor, image_v: Tensor, cross: bool, self_: bool, isolate: bool
) -> Tensor:
    """Concept c reads the concepts (itself alone if isolated) and the image tokens."""
    batch, head_count, concepts, dim = q.shape
    out = torch.zeros(batch, concepts, head_count * dim, dtype=q.dtype)
    for b in range(batch):
        for h in range(head_count):
            for c in range(concepts):
                keys, values = [], []
                if self_:
                    seen = [c] if isolate else range(concepts)
                    keys += [k[b, h, i] for i in seen]
                    values += [v[b, h, i] for i in seen]
                if cross:
                    keys += list(image_k[b, h])
                    values += list(image_v[b, h])
                if not keys:
                    out[b, c, h * dim : (h + 1) * dim] = v[b, h, c]
                    continue
                weights = [math.exp(float(q[b, h, c] @ key) / math.sqrt(dim)) for key in keys]
                mixed = sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights)
                out[b, c, h * dim : (h + 1) * dim] = mixed
    return out


def scores_by_loops(concept: Tensor, image: Tensor, temperature: float) -> Tensor:
    """Softmax over the concepts of their dot products with each patch."""
    batch, concepts, _ = concept.shape
    made = torch.zeros(batch, concepts, image.shape[1], dtype=concept.dtype)
    for b in range(batch):
        for n in range(image.shape[1]):
            powers = [math.exp(float(concept[b, c] @ image[b, n]) / temperature) for c in range(concepts)]
            for c in range(concepts):
                made[b, c, n] = powers[c] / sum(powers)
    return made
