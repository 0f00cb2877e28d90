"""Value space (arXiv 2502.04320, Table 3, row "Value").

s[c, x] = <v_c, v_x>, softmax over the concepts, mean over layers.
"""

from __future__ import annotations

from conceptlens.methods import register
from conceptlens.methods.stream import StreamMethod


@register
class ValueSimilarity(StreamMethod):
    """Values of concepts and patches."""

    name = "value-similarity"
    summary = "values of concepts and patches"
    space = "value"
