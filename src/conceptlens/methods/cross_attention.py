"""Cross attention inside the transformer (arXiv 2502.04320, Table 1, row "CrossAttention").

s[c, x] = <k_c, q_x> per head after QK-norm, before rotation; softmax over the concepts, mean over heads and layers.
"""

from __future__ import annotations

from conceptlens.methods import register
from conceptlens.methods.stream import StreamMethod


@register
class CrossAttention(StreamMethod):
    """Concept keys with image queries, per head."""

    name = "cross-attention"
    summary = "concept keys with image queries, per head"
    space = "cross"
