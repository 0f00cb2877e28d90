"""ConceptAttention (arXiv 2502.04320, section 4): a one-directional concept stream, compared in output space.

s[c, x] = <o_c, o_x> (equation 9), softmax over the concepts, mean over layers.
"""

from __future__ import annotations

from conceptlens.methods import register
from conceptlens.methods.stream import StreamMethod


@register
class ConceptAttention(StreamMethod):
    """Attention outputs of concepts and patches (the method of the paper)."""

    name = "concept-attention"
    summary = "attention outputs of concepts and patches (the method of the paper)"
    space = "output"
