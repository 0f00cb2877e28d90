"""Rows of tensors, as families cut, repeat, place and rotate them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from conceptlens.values.recipe import Pooling
from conceptlens.values.records import TokenGrid

_IN_CACHE = 2**17
"""Numbers of which a float32 copy stays in a processor's cache."""


def grid_of(ids: Tensor) -> TokenGrid:
    """The patch grid of (image, axis) position ids: axis 0 tells images apart, 1 and 2 are row and column."""
    first = ids[ids[:, 0] == ids[0, 0]]
    rows, cols = (int(v) + 1 for v in (first[:, 1:3].amax(0) - first[:, 1:3].amin(0)).tolist())
    return TokenGrid(rows, cols)


def references_of(ids: Tensor) -> tuple[TokenGrid, ...]:
    """The patch grids of the images behind the first, told apart by axis 0, in the order of their tokens."""
    images = list(dict.fromkeys(ids[:, 0].tolist()))
    return tuple(grid_of(ids[ids[:, 0] == image]) for image in images[1:])


def pool_tokens(hidden: Float[Tensor, "length dim"], kept: Sequence[int], pooling: Pooling) -> Float[Tensor, " dim"]:
    """One vector for a concept whose own tokens stand at the positions `kept`."""
    if pooling == "mean":
        return hidden[list(kept)].mean(dim=0)
    return hidden[kept[-1] if pooling == "last" else kept[0]]


def take(tensor: Tensor, rows: slice) -> Tensor:
    """The rows of a per-sample argument; a single row stands for all."""
    return tensor if len(tensor) == 1 else tensor[rows]


def repeat_rows(vector: Tensor, batch: int) -> Tensor:
    """A (dim) vector, or (concept, dim) matrix, for every row of a batch."""
    return vector[None].expand(batch, *vector.shape)


def rotate_pairs(
    heads: Float[Tensor, "batch head image head_dim"],
    cos: Float[Tensor, "image head_dim"],
    sin: Float[Tensor, "image head_dim"],
) -> Float[Tensor, "batch head image head_dim"]:
    """Rotary embedding of adjacent pairs, as one complex product per head; the same bits as diffusers' own.

    Float32 whatever the model's dtype, as in diffusers. One head at a time, so that the float32 copy stays in the
    cache: the rotation of the image keys is most of the method's cost, and the plain form makes six passes over memory
    where this makes two. (On a GPU, and of small images, the launches would cost more than the memory; there it is one
    product.)
    """
    turn = torch.complex(cos[:, ::2].float(), sin[:, ::2].float())
    if heads.device.type != "cpu" or heads.numel() <= _IN_CACHE:
        whole = torch.view_as_complex(heads.float().unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(whole * turn).flatten(-2).to(heads.dtype)
    rotated = torch.empty(heads.shape, dtype=heads.dtype, device=heads.device)
    for head in range(heads.shape[1]):
        pairs = heads[:, head].float().unflatten(-1, (-1, 2)).contiguous()
        rotated[:, head] = torch.view_as_real(torch.view_as_complex(pairs) * turn).flatten(-2)
    return rotated


def rows_at(ids: Tensor, places: Sequence[int]) -> Tensor:
    """What stands at some text rows, (row, ...); beyond the prompt's end the last row's."""
    flat = ids[0] if ids.ndim == 3 else ids
    return flat[[min(place, len(flat) - 1) for place in places]]


def replaced_text(values: Tensor, images: int, places: Sequence[int]) -> Tensor:
    """Values of a sequence of text and image, text first, with those of the places for its text."""
    words, others = values.split([len(values) - images, images])
    return torch.cat([rows_at(words, places), others])
