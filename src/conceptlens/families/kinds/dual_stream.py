"""What FLUX.1 and its kin share: text and image stream with weights of their own and one joint attention."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from conceptlens.families.base import DiTAdapter, Tap
from conceptlens.families.kinds.rows import grid_of, references_of, rotate_pairs
from conceptlens.families.kinds.text_side import advance_text, text_taps
from conceptlens.values.models import Module, Pipeline
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import CallRecord, TokenGrid


class DualStreamAdapter(DiTAdapter):
    """Blocks in `transformer_blocks` with `attn.to_{q,k,v}`, `attn.norm_{q,k}` and `attn.to_out`.

    Guidance calls the model twice, it does not double the batch. `rotate` reads `cos` and `sin` (image, head_dim) of
    the call, where `observe` puts them.
    """

    def recipe(self, depth: int) -> Recipe:
        return Recipe(layers=tuple(range(max(0, depth - 10), depth)), pooled="prompt")

    def blocks(self) -> nn.ModuleList:
        return self.transformer.transformer_blocks

    def attention(self, block: Module) -> Module:
        """The joint attention of a block."""
        return block.attn

    def taps(self, block: Module) -> Mapping[str, Tap]:
        attn = self.attention(block)
        value = Tap(attn.to_qkv, select=lambda qkv: qkv.chunk(3, dim=-1)[2]) if self.is_fused(attn) else Tap(attn.to_v)
        return {"query": Tap(attn.norm_q), "key": Tap(attn.norm_k), "value": value, "out": Tap(attn.to_out[0], "input")}

    def text_taps(self, block: Module) -> Mapping[str, Tap]:
        return text_taps(self.attention(block))

    def is_fused(self, attn: Module) -> bool:
        """Whether the attention computes q, k and v with one linear layer."""
        return attn.fused_projections

    def heads(self, block: Module, tensor: Tensor) -> Tensor:
        split = tensor if tensor.ndim == 4 else tensor.unflatten(-1, (self.attention(block).heads, -1))
        return split.transpose(1, 2)

    def rotate(self, heads: Tensor, call: CallRecord) -> Tensor:
        return rotate_pairs(heads, call.arguments["cos"], call.arguments["sin"])

    def placed(
        self, ids: Tensor, previous: CallRecord | None
    ) -> tuple[TokenGrid, tuple[TokenGrid, ...], dict[str, Tensor]]:
        """The grids of position ids, of the image and of its references, and what to keep; made once for the same ids.

        Kept are `img_ids`, `cos` and `sin`.
        """
        if previous is not None and previous.arguments["img_ids"] is ids:
            kept = {name: previous.arguments[name] for name in ("img_ids", "cos", "sin")}
            return previous.grid, previous.references, kept
        flat = ids if ids.ndim == 2 else ids[0]
        cos, sin = self.transformer.pos_embed(flat)
        return grid_of(flat), references_of(flat), {"img_ids": ids, "cos": cos, "sin": sin}

    def advance(self, block: Module, hidden: Tensor, out: Tensor, modulation: tuple[Tensor, ...]) -> Tensor | None:
        return advance_text(block, hidden, out, modulation)

    def side_multiple(self, pipeline: Pipeline) -> int:
        return 2 * pipeline.vae_scale_factor
