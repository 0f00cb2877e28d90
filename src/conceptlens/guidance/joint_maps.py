"""Maps of a prompt's words in one forward of a diffusion transformer, with their gradient; it computes as ever.

Two kinds stand for a U-Net's cross-attention. "output": ConceptAttention (arXiv 2502.04320, equation 9) with the
prompt's words as concepts. The concept stream of a prompt's own tokens *is* the model's text stream, so that attention
outputs of text and image are read where they pass, and nothing has to be computed twice. "joint": the text columns of
the softmax over [text; image] that the model itself takes for each image token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from conceptlens.families.base import DiTAdapter, Tap
from conceptlens.ops.spaces import normalize_concepts, reduce_heads, vector_similarity
from conceptlens.values.early_exit import StopForward
from conceptlens.values.errors import ModelError
from conceptlens.values.models import Module
from conceptlens.values.recipe import Normalization
from conceptlens.values.records import CallRecord

Segments = Sequence[Sequence[Sequence[int]]]
"""The text rows of each word, one list of words for each text encoder whose states are rows of the text stream."""


class JointMaps:
    """Collects word maps block by block.

    Args:
        adapter: the family.
        kind: "output" or "joint".
        blocks: the dual-stream blocks that are read, in order.
        call: what the adapter observed of the call.
        segments: of each image.
        early_exit: end the forward after the last of the blocks.
    """

    def __init__(
        self,
        adapter: DiTAdapter,
        kind: str,
        blocks: Sequence[int],
        call: CallRecord,
        segments: Sequence[Segments],
        *,
        early_exit: bool,
    ) -> None:
        self._adapter, self._kind, self._blocks = adapter, kind, blocks
        self._call, self._segments, self.early_exit = call, segments, early_exit
        self._normalize: Normalization = adapter.recipe(len(adapter.blocks())).normalize
        self._tapped: dict[int, dict[str, Tensor]] = {}
        self._maps: dict[int, list[Tensor]] = {}

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hooks on the blocks that are read; none are left afterwards."""
        handles: list[RemovableHandle] = []
        try:
            for number in self._blocks:
                for name, tap in self._taps(self._adapter.blocks()[number]).items():
                    handles.append(self._hook(number, name, tap))
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._tapped, self._maps = {}, {}

    def mean(self) -> list[Float[Tensor, "_word rows cols"]]:
        """For each image the mean over blocks.

        Raises:
            ModelError: when a block did not pass what is read.
        """
        missing = [number for number in self._blocks if number not in self._maps]
        if missing:
            raise ModelError(
                f"block {missing[0]} ran without passing its text and image attention by: another tool replaced or "
                "compiled it. Remove that tool."
            )
        grid = (self._call.grid.rows, self._call.grid.cols)
        means = [torch.stack(maps).mean(0) for maps in zip(*self._maps.values(), strict=True)]
        return [mean.unflatten(-1, grid) for mean in means]

    def _taps(self, block: Module) -> dict[str, Tap]:
        image, text = self._adapter.taps(block), self._adapter.text_taps(block)
        if self._kind == "output":
            return {"image": image["out"], "text": text["out"]}
        return {"query": image["query"], "key": image["key"], "text": text["key"]}

    def _hook(self, number: int, name: str, tap: Tap) -> RemovableHandle:
        def before(_module: Module, args: tuple[Tensor, ...]) -> None:
            self._keep(number, name, args[0])

        def after(_module: Module, _args: object, out: Tensor) -> None:
            self._keep(number, name, out if tap.select is None else tap.select(out))

        if tap.side == "input":
            return tap.module.register_forward_pre_hook(before)
        return tap.module.register_forward_hook(after)

    def _keep(self, number: int, name: str, tensor: Tensor) -> None:
        tapped = self._tapped.setdefault(number, {})
        tapped[name] = tensor
        if len(tapped) < len(self._taps(self._adapter.blocks()[number])):
            return
        words = self._words(self._adapter.blocks()[number], self._tapped.pop(number))
        # Gradient checkpointing runs a block again during the backward pass: the first maps are those with the graph.
        self._maps.setdefault(number, words)
        if self.early_exit and len(self._maps) == len(self._blocks):
            raise StopForward

    def _words(self, block: Module, tapped: dict[str, Tensor]) -> list[Float[Tensor, "_word image"]]:
        if self._kind == "output":
            pairs = zip(tapped["text"], tapped["image"], self._segments, strict=True)
            return [
                torch.cat([output_maps(text, image, words, self._normalize) for words in segments])
                for text, image, segments in pairs
            ]
        query, key, text = (self._adapter.heads(block, tapped[name]) for name in ("query", "key", "text"))
        query, key = (self._adapter.rotate(heads, self._call) for heads in (query, key))
        # The rows over all image tokens are too large to keep for the backward pass, so they are made twice.
        attention: Tensor = checkpoint(joint_attention, query, key, text, use_reentrant=False)  # type: ignore[assignment]
        pairs = zip(attention, self._segments, strict=True)
        return [torch.stack([own[list(w)].mean(0) for words in segments for w in words]) for own, segments in pairs]


def output_maps(
    text: Float[Tensor, "token dim"],
    image: Float[Tensor, "image dim"],
    words: Sequence[Sequence[int]],
    normalize: Normalization,
) -> Float[Tensor, "word image"]:
    """Softmax over the words of the products of attention outputs; a word's output is the mean of its tokens'."""
    vectors = normalize_concepts(torch.stack([text[list(rows)].mean(0) for rows in words]), normalize)
    return reduce_heads(vector_similarity(vectors[None], image[None]), softmax=True, temperature=1.0)[0]


def joint_attention(
    query: Float[Tensor, "batch head image head_dim"],
    key: Float[Tensor, "batch head image head_dim"],
    text: Float[Tensor, "batch head token head_dim"],
) -> Float[Tensor, "batch token image"]:
    """What each image token pays to each text token, averaged over heads, in 0..1.

    Text is rotated nowhere: it stands at position zero (FLUX.1), or nothing is rotated (Stable Diffusion 3).
    """
    precise = torch.promote_types(query.dtype, torch.float32)
    scaled = query.to(precise) * query.shape[-1] ** -0.5
    to_text, to_image = (scaled @ side.to(precise).transpose(-1, -2) for side in (text, key))
    total = torch.logaddexp(to_text.logsumexp(-1, keepdim=True), to_image.logsumexp(-1, keepdim=True))
    return (to_text - total).exp().mean(1).transpose(1, 2)
