"""Attention between concepts and image: concepts that read [concepts; image], and an image that reads any text."""

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


def text_probabilities(
    query: ImageHeads,
    key: Float[Tensor, "#batch kv_head token head_dim"],
    scale: float,
    bias: Float[Tensor, "#batch #head #image token"] | None = None,
    image_key: Float[Tensor, "batch kv_head image head_dim"] | None = None,
) -> Float[Tensor, "batch head image token"]:
    """What each image token attends to in a text: softmax(q k scale + bias) over its rows, in float32 or better.

    Where one softmax takes text and image, the image's own rows take their share of it, so the text's is below 1.

    Args:
        query: of the image, as it goes into the softmax.
        key: of the text, likewise.
        scale: of the scores.
        bias: added to them; None where the layer has no mask.
        image_key: of the image, where one softmax takes text and image.
    """
    scores = _scores(query, key, scale)
    scores = scores if bias is None else scores + bias.to(scores)
    if image_key is None:
        return scores.softmax(dim=-1)
    both = torch.cat([scores, _scores(query, image_key, scale)], dim=-1)
    return both.softmax(dim=-1)[..., : scores.shape[-1]]


def _scores(query: Tensor, key: Tensor, scale: float) -> Tensor:
    precise = torch.promote_types(query.dtype, torch.float32)
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    return query.to(precise) @ key.to(precise).transpose(-1, -2) * scale
