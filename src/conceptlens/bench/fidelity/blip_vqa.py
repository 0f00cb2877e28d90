"""BLIP-VQA: is every noun phrase of the prompt in the picture?

Huang et al., "T2I-CompBench", NeurIPS 2023, arXiv 2307.06350, section 4.1. For each noun phrase BLIP is asked
"a red house?"; the score is P(yes) / (P(yes) + P(no)) of the first token of its answer, and their product over phrases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL import Image
from transformers import BlipForQuestionAnswering

from conceptlens.bench.fidelity._loading import load, load_processor
from conceptlens.bench.fidelity.phrases import noun_phrases
from conceptlens.bench.fidelity.prompts import Asked, FidelityError
from conceptlens.values.errors import ModelError

DEFAULT_BLIP_VQA = "Salesforce/blip-vqa-capfilt-large"
SIDE = 480
"""Pixels of the pictures as T2I-CompBench shows them; position embeddings are interpolated to it."""


class YesNo:
    """BLIP's chance of "yes" against "no".

    Args:
        source: a BLIP model that answers questions.
        side: of the pictures in pixels; a multiple of the model's patches.
    """

    def __init__(
        self, source: str = DEFAULT_BLIP_VQA, device: str | torch.device | None = None, *, side: int = SIDE
    ) -> None:
        self._model = load(source, BlipForQuestionAnswering, device)
        self._processor = load_processor(source)
        self._size = {"height": side, "width": side}
        patch = self._model.config.vision_config.patch_size
        if side % patch:
            raise ModelError(f"pictures of {side} pixels are no whole number of {source}'s {patch}-pixel patches.")
        tokenizer = self._processor.tokenizer
        self._yes, self._no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
        if tokenizer.unk_token_id in (self._yes, self._no):
            raise ModelError(f'{source} has no tokens "yes" and "no". Use a BLIP model that answers questions.')

    @torch.no_grad()
    def __call__(self, image: Image.Image, question: str) -> float:
        """0..1, from the first token alone."""
        inputs = self._processor(images=image.convert("RGB"), text=question, size=self._size, return_tensors="pt")
        inputs = inputs.to(self._model.device, self._model.dtype)
        said = self._model.generate(
            **inputs,
            interpolate_pos_encoding=True,
            max_new_tokens=1,
            num_beams=1,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        yes, no = said.logits[0][0, [self._yes, self._no]].float().tolist()
        return 1 / (1 + math.exp(min(no - yes, 700)))


class BlipVQABinding:
    """Scores one picture after another.

    Args:
        ask: a picture and a question, to the chance of "yes" against "no".
        settings: all that the scores depend on, as plain values.
    """

    name = "blip-vqa"

    def __init__(self, ask: Callable[[Image.Image, str], float], settings: Mapping[str, Any]) -> None:
        self._ask, self.settings = ask, dict(settings)

    def __call__(self, asked: Asked, image: Image.Image) -> dict[str, Any]:
        """`scores` (the product) and the chance of each phrase.

        Raises:
            FidelityError: when the prompt has no noun phrase.
        """
        phrases = noun_phrases(asked.prompt)
        if not phrases:
            raise FidelityError(f"the prompt {asked.prompt!r} has no noun phrase. Leave it out.")
        chances = {phrase: self._ask(image, f"{phrase}?") for phrase in phrases}
        # A phrase that stands twice counts twice.
        return {"scores": {"blip_vqa": math.prod(chances[phrase] for phrase in phrases)}, "phrases": chances}
