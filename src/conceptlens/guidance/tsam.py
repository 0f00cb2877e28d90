"""T-SAM: similarities of cross-attention maps follow the text encoder's self-attention.

Kim, Esmaeili, Qiu, "Text Embedding is Not All You Need", CVPR 2025, arXiv 2411.15236. Which words belong together is
written in the text encoder's self-attention, but gets lost on its way into the picture. So the latents are moved until
maps of words that attend to each other are alike. With A_i the map of token i of s, and T the self-attention raised to
a power, with unit rows, let `S_ij = cos(A_i, A_j) / sum_k<=i cos(A_i, A_k)`; the loss is
`sum_i (i / s) sum_j<=i |T_ij - S_ij|`. No words need to be pointed out.

Where paper and official code differ: the code's shipped configuration runs another loss ("release"), and its power is
followed by a second normalisation, without which the printed loss has no gradient; that is kept here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from conceptlens.guidance.base import Guidance, Maps, Objective
from conceptlens.guidance.settings import kernel, number
from conceptlens.ops.alignment import TSAMLoss, smooth, target_matrix, tsam_loss
from conceptlens.values.errors import RecipeError, shown
from conceptlens.values.recipe import check_choice
from conceptlens.watch.prompt_text import PromptText, merged

TransformerMaps = Literal["output", "joint"]
TextEncoders = Literal["all", "clip", "t5"]


@dataclass(frozen=True, kw_only=True)
class TSAM(Guidance):
    """Text Self-Attention Maps guidance.

    Attributes:
        gamma: the power of the self-attention: above 1 it says more clearly which tokens belong together.
        loss: "abs" (the paper's), "cos_rows", or "release_default" (what the official code runs as it ships).
        smoothing: (kernel size, sigma) of the maps; None: none.
        text_layers: layers of the text encoder that are averaged: "all", "used" (without those that never reach the
            U-Net: the last of Stable Diffusion XL), or numbers, negative ones from the last.
        first_encoder_weight: share of the first of two text encoders (Stable Diffusion XL), 0..1.
        merge: "word" averages the pieces of a word; "none" (as published) gives each piece its own row.
        maps: on a diffusion transformer, what stands for cross-attention: "output", ConceptAttention's output space
            (arXiv 2502.04320) with the prompt's words as concepts, or "joint", the text columns of joint attention.
        blocks: on a diffusion transformer, the dual-stream blocks whose maps are averaged, negative ones from the last;
            None: those of the family's default recipe.
        text_encoders: on a diffusion transformer, whose self-attention is followed: "all", "clip" or "t5". CLIP's is
            what the paper looked at; that T5's knows what belongs together is not established.
    """

    name: ClassVar[str] = "tsam"
    reads_transformers: ClassVar[bool] = True

    alpha: float | int = 10.0
    gamma: float | int = 4.0
    loss: TSAMLoss = "abs"
    smoothing: tuple[int, float] | None = (3, 0.5)
    text_layers: Literal["all", "used"] | tuple[int, ...] = "all"
    first_encoder_weight: float | int = 0.5
    merge: Literal["none", "word"] = "none"
    maps: TransformerMaps = "output"
    blocks: tuple[int, ...] | None = None
    text_encoders: TextEncoders = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("loss", self.loss, TSAMLoss)
        check_choice("merge", self.merge, Literal["none", "word"])
        check_choice("maps", self.maps, TransformerMaps)
        check_choice("text_encoders", self.text_encoders, TextEncoders)
        self._set("gamma", number("gamma", self.gamma, "a finite number above 0", lambda v: v > 0))
        share = number("first_encoder_weight", self.first_encoder_weight, "a share from 0 to 1", lambda v: 0 <= v <= 1)
        self._set("first_encoder_weight", share)
        if self.smoothing is not None:
            self._set("smoothing", kernel(self.smoothing))

    @classmethod
    def preset(cls, name: str, **changes: Any) -> TSAM:
        """A published setting ("paper-tifa", "paper-ae", "release") or "transformer", with some fields changed.

        The paper's are its step sizes for TIFA (40) and Attend-and-Excite prompts (10), 25 steps of 50; whether alpha
        falls or steps were refined is not stated, so neither is done here. "release" is the official code's shipped
        configuration: another loss, power 3, a falling alpha and 20 more updates at steps 0, 10 and 20. (Its stopping
        rule cannot be followed: it raises for most prompts.) "transformer" is no publication's: a start for diffusion
        transformers, a share of the latents' size in the first 60 % of 28 steps.

        Raises:
            RecipeError: for an unknown name.
        """
        if name not in PRESETS:
            raise RecipeError(f"no T-SAM preset {name!r}. Known: {', '.join(PRESETS)}.")
        return replace(PRESETS[name], **changes)

    def objective(self, text: PromptText) -> Objective:
        places, target = self.similar_positions(text), self.target(text)
        if len(places) < 2:
            raise RecipeError(
                f"the prompt {text.prompt!r} has {len(places)} token(s); T-SAM compares two or more. Say more."
            )
        if not text.causal and self.loss == "release_default":
            raise RecipeError("loss release_default is of causal text encoders; T5 is none. Use abs or cos_rows.")

        def loss(maps: Maps, _before: Maps | None) -> Tensor:
            word_maps = torch.stack([maps[list(p)].mean(0) for p in places])
            word_maps = word_maps if self.smoothing is None else smooth(word_maps, *self.smoothing)
            return tsam_loss(word_maps, target.to(word_maps), self.loss, text.causal)

        return loss

    def similar_positions(self, text: PromptText) -> tuple[tuple[int, ...], ...]:
        if self.merge == "word":
            return tuple(places for _, places in text.words)
        return super().similar_positions(text)

    def target(self, text: PromptText) -> Float[Tensor, "token token"]:
        """T: (token, token) with unit rows, lower-triangular where the text encoder is causal."""
        layered = [_chosen(a, self.text_layers, text.unused_layers).mean(0) for a in text.attention]
        shares = [1.0] if len(layered) == 1 else [self.first_encoder_weight, 1 - self.first_encoder_weight]
        attention = torch.stack([s * a for s, a in zip(shares, layered, strict=True)]).sum(0)
        if self.merge == "word":
            attention = merged(attention, [[p - text.positions[0] for p in places] for _, places in text.words])
        return target_matrix(attention, self.gamma, text.causal)


def _chosen(attention: Tensor, layers: str | tuple[int, ...], unused: int) -> Tensor:
    count = len(attention)
    if layers not in ("all", "used") and (isinstance(layers, str) or not isinstance(layers, Sequence)):
        raise RecipeError(f"text_layers must be all, used, or numbers; got {shown(layers)}.")
    if layers == "all":
        return attention
    if layers == "used":
        return attention[: max(1, count - unused)]
    wrong = [n for n in layers if not isinstance(n, int) or not -count <= n < count]
    if wrong or not layers:
        raise RecipeError(
            f"text_layers has {layers!r}, but the text encoder has {count} layers: use 0 to {count - 1}, "
            f"-1 to -{count}, all or used."
        )
    return attention[[int(n) for n in layers]]


PRESETS = {
    "paper-tifa": TSAM(alpha=40.0),
    "paper-ae": TSAM(alpha=10.0),
    "release": TSAM(
        alpha=5.0,
        gamma=3.0,
        loss="release_default",
        alpha_schedule="sqrt_linear",
        steps=range(30),
        inner={0: 20, 10: 20, 20: 20},
    ),
    "transformer": TSAM(experimental=True, alpha=0.01, grad_norm="rms", steps=range(17)),
}
