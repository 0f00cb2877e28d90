"""Scores that flow along the image's own self-attention, without a matrix of patches by patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SHARPNESS = 4.0
"""What attention logits are multiplied by: the model's own attention (1) spreads over too much of the image."""


def propagate(
    scores: Float[Tensor, "batch concept image"],
    query: Float[Tensor, "batch head image head_dim"],
    key: Float[Tensor, "batch head image head_dim"],
    sharpness: float = SHARPNESS,
) -> Float[Tensor, "batch concept image"]:
    """Each patch's scores averaged over the patches it attends to: the mean over heads of softmax(s q k / sqrt(d)) M.

    Text takes no part, so the rows of the attention sum to one over the image.

    Args:
        scores: of any range; averages stay in it.
        query: of the image, after norms and rotation.
        key: likewise.
        sharpness: s.
    """
    precise = torch.promote_types(scores.dtype, torch.float32)
    concepts, width = scores.shape[1], query.shape[-1]
    # Values as wide as the keys: others leave the kernels that never hold the whole attention.
    maps = F.pad(scores.to(precise).transpose(1, 2), (0, max(0, width - concepts)))
    spread = F.scaled_dot_product_attention(
        query.to(precise),
        key.to(precise),
        maps[:, None].expand(-1, query.shape[1], -1, -1),
        scale=sharpness / width**0.5,
    )
    return spread.mean(dim=1)[..., :concepts].transpose(1, 2).to(scores.dtype)
