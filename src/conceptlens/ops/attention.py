"""One-directional attention: concepts read [concepts; image], the image never reads them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

Heads = Float[Tensor, "batch head concept head_dim"]
ImageHeads = Float[Tensor, "batch head image head_dim"]


def concept_attention(  # noqa: PLR0913 - the five tensors of the equations and their three switches
    query: Heads,
    key: Heads,
    value: Heads,
    image_key: ImageHeads,
    image_value: ImageHeads,
    *,
    cross: bool = True,
    self_: bool = True,
    isolate: bool = False,
) -> Float[Tensor, "batch concept dim"]:
    """Attention output of the concepts before the output projection (arXiv 2502.04320, equations 6 to 8).

    Args:
        query: concept queries after QK-norm and rotation; likewise `key` and `value`.
        key: see `query`.
        value: see `query`.
        image_key: the model's own image keys after QK-norm and rotation.
        image_value: the model's own image values.
        cross: concepts read the image.
        self_: concepts read the concepts.
        isolate: each concept reads itself, not the other concepts. No effect without `self_`.
    """
    if not cross and not self_:
        return rearrange(value, "b h c d -> b c (h d)")
    keys = [key] * self_ + [image_key] * cross
    values = [value] * self_ + [image_value] * cross
    mask = None
    if isolate and self_:
        count = key.shape[2]
        mask = torch.eye(count, dtype=torch.bool, device=key.device)
        if cross:
            mask = torch.cat([mask, mask.new_ones(count, image_key.shape[2])], 1)
    joined = [parts[0] if len(parts) == 1 else torch.cat(parts, dim=2) for parts in (keys, values)]
    out = F.scaled_dot_product_attention(query, *joined, attn_mask=mask)
    return rearrange(out, "b h c d -> b c (h d)")


def image_attention(
    image_query: ImageHeads, image_key: ImageHeads, image_value: ImageHeads, key: Heads, value: Heads
) -> Float[Tensor, "batch image dim"]:
    """Attention output of image tokens that read [image; text-side tokens]: the slow half of a joint attention.

    The method does not need it; the official SD3 code computes its image vectors so, with concepts as the text.
    """
    keys, values = torch.cat([image_key, key], 2), torch.cat([image_value, value], 2)
    return rearrange(F.scaled_dot_product_attention(image_query, keys, values), "b h n d -> b n (h d)")
