"""Self-attention of self-supervised vision transformers: where the class token of the last block looks."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from conceptlens.methods._vit import VisionMethod
from conceptlens.methods._vit_view import part, tapped, vit_blocks
from conceptlens.readers.reading import working_size
from conceptlens.values.errors import RecipeError, shown


def first_row(
    q: Float[Tensor, "1 token width"], k: Float[Tensor, "1 token width"], heads: int
) -> Float[Tensor, "head token"]:
    """softmax(q_0 Kᵀ / √d): where the class token looks. One row alone spares the token x token matrix."""
    first, keys = q[0, 0].unflatten(-1, (heads, -1)), k[0].unflatten(-1, (heads, -1))
    return (torch.einsum("hd,thd->ht", first, keys) * first.shape[-1] ** -0.5).softmax(dim=-1)


class SelfAttentionMethod(VisionMethod):
    """The mean over heads of the last block's class token attention, at the patches (arXiv 2104.14294, figure 1).

    Register tokens are skipped. The picture keeps its aspect: its sides are rounded to whole patches at an area of
    `size` x `size` pixels, and position embeddings are interpolated.
    """

    def __init__(self, opened: object, **options: Any) -> None:
        super().__init__(opened, **options)
        config = self._model.config
        self._patch, self._prefix = config.patch_size, 1 + getattr(config, "num_register_tokens", 0)
        size = self._options["size"]
        if not (isinstance(size, int) and self._patch <= size <= 4096):
            raise RecipeError(f"size must be {self._patch}..4096 pixels for this model; got {shown(size)}.")

    def _size(self, picture: Image.Image) -> tuple[int, int]:
        return working_size(picture.size, self._options["size"] ** 2, self._patch)

    def _scores(self, pixels: Tensor, names: tuple[str, ...]) -> Float[Tensor, "map rows cols"]:
        rows, cols = (side // self._patch for side in pixels.shape[2:])
        row = first_row(*self._last_queries_and_keys(pixels), self._model.config.num_attention_heads)
        return row.mean(dim=0)[self._prefix :].reshape(1, rows, cols)

    def _last_queries_and_keys(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        last, seen = vit_blocks(self._model)[-1], {}
        q = part(last, nn.Linear, "attention.q_proj", "attention.attention.query")
        k = part(last, nn.Linear, "attention.k_proj", "attention.attention.key")
        resized = {"interpolate_pos_encoding": True} if self._opened.family.model_type == "vit" else {}
        with tapped([(q, lambda _, made: seen.update(q=made)), (k, lambda _, made: seen.update(k=made))]):
            self._model(pixels, **resized)
        return seen["q"], seen["k"]
