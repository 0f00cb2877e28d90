"""CLIP similarities as Attend-and-Excite measures them (arXiv 2301.13826, section 5), and T-SAM after it.

All are cosines. A prompt's embedding is the mean over 80 sentences around it, normalised before and after.

* full: picture and prompt.
* minimum: picture and each half of the prompt ("a cat" and "a dog" of "a cat and a dog"), the lower of the two.
* text: a caption of the picture, as it is, and the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor

from conceptlens.bench.fidelity._loading import load_processor
from conceptlens.bench.fidelity.prompts import Asked
from conceptlens.methods.clip_models import load_clip
from conceptlens.methods.templates import TEMPLATES

DEFAULT_CLIP = "openai/clip-vit-base-patch16"
_JOINTS = (" and ", " with ")


@runtime_checkable
class Embedder(Protocol):
    """Pictures and texts as unit vectors of one space."""

    def image(self, image: Image.Image) -> Float[Tensor, " dim"]: ...

    def texts(self, texts: Sequence[str]) -> Float[Tensor, "text dim"]: ...


class ClipEmbedder:
    """A CLIP model from a folder or a hub id."""

    def __init__(self, source: str = DEFAULT_CLIP, device: str | torch.device | None = None) -> None:
        self._clip = load_clip(source, device)
        self._processor = load_processor(source, AutoImageProcessor)

    @torch.no_grad()
    def image(self, image: Image.Image) -> Float[Tensor, " dim"]:
        given = self._processor(images=image.convert("RGB"), return_tensors="pt").to(self._clip.model.device)
        return F.normalize(self._clip.model.get_image_features(**given).pooler_output.float(), dim=-1)[0]

    def texts(self, texts: Sequence[str]) -> Float[Tensor, "text dim"]:
        return self._clip.text(texts)


def sentences(prompt: str) -> list[str]:
    """The prompt in each of the 80 sentences.

    Doubled articles become one by the official text replacements, which also turn "a apple" into "apple".
    """
    texts = (template.format(prompt) for template in TEMPLATES["ensemble"])
    return [text.replace("a a", "a").replace("the a", "a") for text in texts]


def halves(prompt: str) -> list[str]:
    """The parts between " and ", or else between " with "; one part where the prompt has neither."""
    joint = next((joint for joint in _JOINTS if joint in prompt), None)
    return [part.strip() for part in prompt.split(joint) if part.strip()] if joint else [prompt]


class ClipSimilarity:
    """Scores one picture after another.

    Args:
        embed: CLIP.
        caption: says what a picture shows; None leaves the similarity of texts out.
        settings: all that the scores depend on, as plain values.
    """

    name = "clip"

    def __init__(
        self, embed: Embedder, caption: Callable[[Image.Image], str] | None, settings: Mapping[str, Any]
    ) -> None:
        self._embed, self._caption, self.settings = embed, caption, dict(settings)
        self._prompt = lru_cache(maxsize=4096)(self._ensemble)

    def _ensemble(self, prompt: str) -> Float[Tensor, " dim"]:
        return F.normalize(self._embed.texts(sentences(prompt)).mean(0), dim=0)

    def __call__(self, asked: Asked, image: Image.Image) -> dict[str, Any]:
        """`scores`, -1..1: `minimum` is None for a prompt without a conjunction; the `caption` where there is one."""
        seen, whole, parts = self._embed.image(image), self._prompt(asked.prompt), halves(asked.prompt)
        scores: dict[str, float | None] = {"full": float(seen @ whole), "minimum": None}
        if len(parts) > 1:
            scores["minimum"] = min(float(seen @ self._prompt(part)) for part in parts)
        if self._caption is None:
            return {"scores": scores}
        caption = self._caption(image)
        scores["text"] = float(self._embed.texts([caption])[0] @ whole)
        return {"scores": scores, "caption": caption}
