"""What a picture shows, said by BLIP with the settings of Attend-and-Excite's evaluation."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from transformers import BlipForConditionalGeneration

from conceptlens.bench.fidelity._loading import load, load_processor

DEFAULT_CAPTIONS = "Salesforce/blip-image-captioning-base"
PREFIX = "a picture of "
GENERATION: dict[str, Any] = {"num_beams": 3, "max_length": 30, "min_length": 10, "do_sample": False}


class Captioner:
    """BLIP captions of 10 to 30 tokens, begun with "a picture of", which is cut off again (arXiv 2201.12086).

    The papers used LAVIS's own checkpoint of the base model, which the hub does not have: figures may differ a little.
    """

    def __init__(self, source: str = DEFAULT_CAPTIONS, device: str | torch.device | None = None) -> None:
        self._model = load(source, BlipForConditionalGeneration, device)
        self._processor = load_processor(source)

    @torch.no_grad()
    def __call__(self, image: Image.Image) -> str:
        inputs = self._processor(images=image.convert("RGB"), text=PREFIX.strip(), return_tensors="pt")
        inputs = inputs.to(self._model.device, self._model.dtype)
        tokens = self._model.generate(**inputs, **GENERATION)
        # The first token begins every caption; its number is none of the vocabulary's in some checkpoints.
        caption = self._processor.batch_decode(tokens[:, 1:], skip_special_tokens=True)[0]
        return caption.removeprefix(PREFIX).strip()
