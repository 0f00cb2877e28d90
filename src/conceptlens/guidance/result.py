"""What a guided run leaves behind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from conceptlens.guidance.loss_curve import loss_curve
from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.maps.pictures import contact_sheet
from conceptlens.watch.prompt_text import PromptText


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


@dataclass(frozen=True)
class GuidedMaps(ConceptMaps):
    """Maps of a guided picture; `save` adds `loss.png`, and `plain.png` and `compare.png` where it was compared.

    Attributes:
        run: how the picture was guided.
        number: of the picture in `run`.
        plain: the same maps of the same seed without guidance, when asked for with `compare=True`.
    """

    run: GuidedResult | None = None
    number: int = 0
    plain: ConceptMaps | None = None

    @classmethod
    def of(cls, maps: ConceptMaps, run: GuidedResult, number: int, plain: ConceptMaps | None = None) -> GuidedMaps:
        """Maps together with the guidance that made them, which their `run_info` names too."""
        losses = [[step.step, *map(_plain, step.losses[:, number].tolist())] for step in run.steps]
        info = replace(maps.run_info, guidance=run.settings, losses=losses)
        shared = {each.name: getattr(maps, each.name) for each in fields(ConceptMaps)}
        shared |= {"seed": run.seeds[number], "run_info": info}
        return cls(**shared, run=run, number=number, plain=plain)

    def _extras(self) -> dict[str, Image.Image]:
        pictures = {}
        if self.run is not None and self.run.steps:
            pictures["loss"] = loss_curve(self.run.losses[:, self.number].tolist(), [s.step for s in self.run.steps])
        if self.plain is not None:
            pictures["plain"] = self.plain.image
            heats = [[(f"{who} {name}", tile) for name, tile in maps.tiles()] for who, maps in self._both()]
            shown = [tile for row in heats for tile in row if not tile[0].endswith("segmentation")]
            pictures["compare"] = contact_sheet(shown, len(shown) // 2)
        return pictures

    def _both(self) -> list[tuple[str, ConceptMaps]]:
        assert self.plain is not None
        return [("plain", self.plain), ("guided", self)]

    def _facts(self) -> list[str]:
        settings = {} if self.run is None else self.run.settings
        return [*super()._facts(), f"guidance {settings.get('method')}", f"alpha {settings.get('alpha')}"]


def _plain(loss: float) -> float | None:
    """JSON knows no NaN."""
    return round(loss, 6) if math.isfinite(loss) else None
