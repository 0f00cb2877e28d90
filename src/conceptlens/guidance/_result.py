"""What a guided run leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from conceptlens.guidance._text import PromptText


@dataclass(frozen=True)
class GuidedStep:
    """One guided denoising step, as it was before its last update.

    Attributes:
        step: number of the denoising step, 0 = the noisiest.
        losses: of every update in this step, the refining ones first; NaN for an image that needed no more of them.
        similarity: for each image, cosine similarity of the smoothed maps of every two tokens, -1..1.
        maps: for each image, attention of every pixel to the prompt's tokens, 0..1, averaged over layers and heads;
            float32 on the CPU.
        moved: root mean square of the step's whole displacement of each image's latents.
    """

    step: int
    losses: Float[Tensor, "update image"]
    similarity: tuple[Float[Tensor, "_token _token"], ...]
    maps: tuple[Float[Tensor, "_token rows cols"], ...]
    moved: Float[Tensor, " image"]


@dataclass(frozen=True)
class GuidedResult:
    """Images and the record of how they were guided.

    Attributes:
        images: what the pipeline returned: a list of PIL images unless another `output_type` was asked for.
        steps: the guided steps in order; empty when nothing was guided.
        texts: the prompt of each image, as the text encoder read it; empty when nothing was guided.
        targets: for each image what the similarities were pulled towards (T-SAM's T), None for other methods.
        seeds: the seed of each image.
        settings: of the guidance, as plain JSON values.
    """

    images: Any
    steps: tuple[GuidedStep, ...]
    texts: tuple[PromptText, ...]
    targets: tuple[Float[Tensor, "_token _token"] | None, ...]
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]

    @property
    def losses(self) -> Float[Tensor, "step image"]:
        """The loss before each guided step's last update."""
        if not self.steps:
            return torch.zeros(0, len(self.seeds))
        return torch.stack([step.losses[-1] for step in self.steps])
