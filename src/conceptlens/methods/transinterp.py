"""TransInterp (Chefer et al., arXiv 2012.09838, equations 13-14; row "TransInterp" of arXiv 2502.04320, Table 1).

Per block A' = mean_h (dy/dA * R)+ with the relevance R of the attention matrix, then C = ... (I + A'_{s+1}) (I + A'_s),
not row-normalised; the map is the class token's row. `variant="mm"` is the follow-up without relevance
(arXiv 2103.15679, equations 5-6): A' = mean_h (dy/dA * A)+, of the last block alone unless `start_layer` says more.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from conceptlens.methods import register
from conceptlens.methods._relevance import ALL_TAPS, RelevanceMethod
from conceptlens.methods._vit import IMAGENET_VIT
from conceptlens.methods._vit_view import Trace, attention, attention_gradients, record
from conceptlens.methods.base import MethodInfo


@register
class TransInterp(RelevanceMethod):
    """Gradient-weighted relevance of the attention matrices, rolled out over the blocks."""

    name = "transinterp"
    summary = "gradient-weighted attention relevance of a ViT, rolled out"
    info = MethodInfo(text_conditioned=False, class_conditioned=True, needs_grad=True, backbone=IMAGENET_VIT.hub_id)
    defaults = {**RelevanceMethod.defaults, "rules": "ours", "variant": "lrp", "start_layer": None}
    choices = {**RelevanceMethod.choices, "variant": ("lrp", "mm")}

    def __init__(self, opened: object, **options: Any) -> None:
        super().__init__(opened, **options)
        if self._options["start_layer"] is None:
            last = len(self._view.blocks) - 1
            self._options["start_layer"] = last if self._options["variant"] == "mm" else min(1, last)

    def _scores(self, pixels: Tensor, names: tuple[str, ...]) -> Float[Tensor, "map rows cols"]:
        trace = record(self._view, pixels, ALL_TAPS, first=self._options["start_layer"], grad=True)
        rows = [self._rolled_out(trace, target)[0, 1:] for target in self._targets(trace.out, names)]
        return torch.stack(rows).unflatten(-1, self._view.grid)

    def _rolled_out(self, trace: Trace, target: Float[Tensor, " out"]) -> Float[Tensor, "token token"]:
        with torch.enable_grad():
            score = self._score(trace.out, target)
        gradients = attention_gradients(self._view, trace, score)
        numbers = sorted(gradients)
        if self._options["variant"] == "mm":
            weights = {number: attention(self._view, trace, number) for number in numbers}
        else:
            weights = dict(self._walk(trace, target, last=numbers[0]).attention)
        joint = torch.eye(trace.tokens.shape[1]).to(trace.tokens)
        for number in numbers:
            positive = (gradients[number] * weights[number])[0].clamp(min=0).mean(dim=0)
            joint = joint + positive @ joint
        return joint
