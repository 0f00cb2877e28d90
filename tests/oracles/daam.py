"""DAAM from its equations, value by value. Slow on purpose; knows only weights and tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def layer_maps_by_loops(to_q: Tensor, to_k: Tensor, hidden: Tensor, text: Tensor, heads: int) -> Tensor:
    """(head, image, token): each patch's attention over the tokens, from the weights of one layer."""
    dim = to_q.shape[0] // heads
    made = torch.zeros(heads, len(hidden), len(text), dtype=torch.float64)
    query, key = hidden.double() @ to_q.double().T, text.double() @ to_k.double().T
    for h in range(heads):
        part = slice(h * dim, (h + 1) * dim)
        for n in range(len(hidden)):
            powers = [math.exp(float(query[n, part] @ key[t, part]) / math.sqrt(dim)) for t in range(len(text))]
            for t in range(len(text)):
                made[h, n, t] = powers[t] / sum(powers)
    return made


def cubic(distance: float) -> float:
    """The cubic convolution kernel with a = -0.75."""
    a, x = -0.75, abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def enlarge_by_loops(small: Tensor, rows: int, cols: int) -> Tensor:
    """Bicubic, pixel areas aligned, the border repeated."""
    high, wide = small.shape
    made = torch.zeros(rows, cols, dtype=torch.float64)
    for r in range(rows):
        for c in range(cols):
            y, x = (r + 0.5) * high / rows - 0.5, (c + 0.5) * wide / cols - 0.5
            top, left = math.floor(y), math.floor(x)
            for i in range(top - 1, top + 3):
                for j in range(left - 1, left + 3):
                    value = small[min(max(i, 0), high - 1), min(max(j, 0), wide - 1)]
                    made[r, c] += cubic(y - i) * cubic(x - j) * value
    return made


def word_map_by_loops(layers: list[tuple[Tensor, int]], tokens: list[int], rows: int, cols: int) -> Tensor:
    """The mean over layers and heads of enlarged, cut maps; then over the tokens. Layers: (maps, rows of the layer)."""
    total, count = torch.zeros(rows, cols, dtype=torch.float64), 0
    for maps, high in layers:
        for head in maps:
            count += 1
            for token in tokens:
                small = head[:, token].reshape(high, -1)
                total += enlarge_by_loops(small, rows, cols).clamp(min=0) / len(tokens)
    return total / count
