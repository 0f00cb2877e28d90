"""Cross-attention maps of an ordinary run, without guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from conceptlens.bench.findings.reading import EncoderReading
from conceptlens.guidance import demo_folder
from conceptlens.guidance.checks import check_options
from conceptlens.guidance.settings import map_size
from conceptlens.ops.alignment import cosine_matrix, smooth
from conceptlens.readers.painting import refusals
from conceptlens.readers.unet_inputs import attention_size, image_size
from conceptlens.readers.unets import UnetReader, load_unet
from conceptlens.values.errors import RecipeError
from conceptlens.values.models import Pipeline
from conceptlens.watch.unet_attention import MapSink, capturing

DEMO = "demo-unet"


@dataclass(frozen=True)
class Painting:
    """How pictures are painted whose maps are read.

    Attributes:
        model: hub id or folder of a Stable Diffusion (1, 2, XL) pipeline; "demo-unet" for the embedded one.
        step: the denoising step whose maps count, 0 = the noisiest.
        call: keywords of the pipeline's call; `num_inference_steps` is 50 unless given.
        attention_size: (rows, cols) of the layers that are read; None: a quarter of the latents' size, or the finest.
        device: "cuda", "cpu", ...
    """

    model: str = DEMO
    step: int = 10
    call: Mapping[str, Any] = field(default_factory=dict)
    attention_size: tuple[int, int] | None = None
    device: str | None = None

    @property
    def steps(self) -> int:
        return self.call.get("num_inference_steps", 50)

    def settings(self) -> dict[str, Any]:
        """Plain values, those filled in that the embedded model is used with."""
        settings = {"model": self.model, "step": self.step, "call": {"num_inference_steps": 50, **self.call}}
        size = self.attention_size
        if self.model == DEMO:
            settings["call"] = {"guidance_scale": 4.0, **settings["call"]}
            size = size or (16, 16)
        return {**settings, "attention_size": list(size) if size else None}

    def open(self) -> UnetReader:
        """Loads the pipeline.

        Raises:
            ModelError: when it cannot be loaded or has no U-Net.
            RecipeError: when there is no such step.
        """
        if not 0 <= self.step < self.steps:
            raise RecipeError(
                f"step must be from 0 to {self.steps - 1}, the last of {self.steps} steps; got {self.step}."
            )
        return load_unet(demo_folder() if self.model == DEMO else self.model, device=self.device)


def paint(
    pipeline: Pipeline, painting: Painting, prompts: Sequence[str], seeds: Sequence[int], *, whole: bool
) -> tuple[Float[Tensor, "image position rows cols"], list[Image.Image]]:
    """Maps of the step with the prompt (not those without it), and the pictures; none unless `whole`.

    Each picture's noise is drawn on the CPU from its own seed, so that it is the one it would be alone.

    Raises:
        RecipeError: for options that the pipeline does not take.
        ModelError: when no cross-attention layer has the wanted size.
    """
    settings = painting.settings()
    check_options(pipeline, prompts, settings["call"])
    sides = [side // pipeline.vae_scale_factor for side in image_size(pipeline, settings["call"])]
    size = attention_size(pipeline.unet, sides, settings["attention_size"] and map_size(settings["attention_size"]))
    nowhere = (0, 0)
    sink = MapSink(size if painting.step == 0 else nowhere, early_exit=False)
    wanted_maps: list[Tensor] = []

    def after(pipe: Pipeline, step: int, _timestep: object, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == painting.step:
            # Under classifier-free guidance the prompt's half comes last.
            wanted_maps.append(sink.mean()[-len(prompts) :].float().cpu())
            sink.maps = {}
            running: Any = pipe
            running._interrupt = not whole  # noqa: SLF001 - what diffusers has callbacks set; no public setter
        sink.size = size if step + 1 == painting.step else nowhere
        return tensors

    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    with refusals(pipeline, "another device"), capturing(pipeline.unet, sink):
        output = pipeline(
            prompt=list(prompts),
            generator=generators,
            callback_on_step_end=after,
            output_type="pil" if whole else "latent",
            **settings["call"],
        )
    return wanted_maps[0], list(output.images) if whole else []


def word_similarity(reading: EncoderReading, maps: Float[Tensor, "position rows cols"]) -> Float[Tensor, "word word"]:
    """C: cosine similarities of the smoothed maps of words, each the mean over its pieces."""
    return cosine_matrix(smooth(torch.stack([maps[list(places)].mean(0) for _, places in reading.text.words])))
