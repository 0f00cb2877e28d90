"""Cross attention of any words in transformers whose text is only keys and values (PixArt, Sana, Wan and others).

The definition is that of OVAM (Marcos-Manchon et al., CVPR 2024, arXiv 2403.14291), carried from U-Nets to
transformers: image queries are recorded once, words that need not be in the prompt are held against them. Per layer and
head, P = softmax over the rows t of the concept's own encoded text of q_x k_t / sqrt(d) + mask; a concept's map is the
mean of P over its content tokens, heads, layers and noise draws.

Why the softmax runs over the concept's own text, special and padding rows included, and not over the concepts: it is
the model's own. With the prompt as the concept the maps are the very probabilities with which the model reads its
prompt (tested to 1e-10), so they have a meaning before any choice of ours; rows that the model masks are masked, rows
that it lets the image read (Wan's padding) take their share as they do while painting, and a map does not depend on
what else is asked for. A softmax over the concepts would always find one of them everywhere.

In a few of them (PRX, Nucleus-Image) the softmax takes the image's own keys as well. They are recorded with the queries
and take their share, so there too P is the model's own.

Text never reads the image in these models. So a concept's keys are the same for every image, and words asked for later
give the bits that they would have given at once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.maps.picture_files import open_image
from conceptlens.methods import register
from conceptlens.methods._options import maps_of, plain
from conceptlens.methods.base import MethodInfo, SaliencyMethod
from conceptlens.readers.cross import CrossReader, check_fit, load_cross
from conceptlens.values.errors import ModelError, RecipeError, shown
from conceptlens.values.models import Pipeline
from conceptlens.values.options import check_range, options_of
from conceptlens.values.records import ImageRecord
from conceptlens.values.words import check_concepts


@dataclass(frozen=True)
class CrossOptions:
    """How an image is shown to the transformer.

    Attributes:
        noise: the noise level, from 0 (clean) to 1 (pure noise).
        samples: noise draws whose maps are averaged.
    """

    noise: float = 0.5
    samples: int = 1

    def __post_init__(self) -> None:
        check_range("noise", self.noise, 0, 1)
        check_range("samples", self.samples, 1, 1000)


@register
class ConceptCrossAttention(SaliencyMethod):
    """Cross-attention probabilities of a concept's own tokens, from 0 to 1, on the transformer's token grid."""

    name = "concept-cross-attention"
    summary = "cross attention of any words in transformers of fixed text (PixArt, Sana, Wan, ...)"
    info = MethodInfo(text_conditioned=True, backbone="PixArt-alpha/PixArt-Sigma-XL-2-1024-MS")

    def __init__(self, model: object, **options: Any) -> None:
        """On an open model.

        Args:
            model: from `readers.cross.load_cross`.
            **options: the fields of `CrossOptions`, and `layers`, block numbers (negative ones from the last block).

        Raises:
            ModelError: for anything but such a model.
            RecipeError: for impossible settings.
        """
        if not isinstance(model, CrossReader):
            raise ModelError(
                f"{self.name} runs on a transformer with cross attention; got a {type(model).__name__}. "
                "Open it with load."
            )
        layers, self._options = _parted(options)
        recipe = {} if layers is None else {"layers": layers}
        self._reader = model
        self._recipe = model.base_recipe.override({**recipe, **asdict(self._options)}).resolve(model.depth)

    @classmethod
    def load(
        cls,
        model: str | Path | Pipeline | None = None,
        *,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> ConceptCrossAttention:
        _parted(options)  # before any weight is fetched
        return cls(load_cross(model or cls.info.backbone, device=device, dtype=dtype), **options)

    @property
    def model_id(self) -> str:
        return self._reader.model_id

    @property
    def settings(self) -> Mapping[str, Any]:
        return {**plain(self._options), "layers": list(self._recipe.layers or ())}

    def explain(self, image: Image.Image, concepts: Sequence[str], *, prompt: str = "", seed: int = 0) -> ConceptMaps:
        """Maps of concepts, which need not be in the prompt.

        Raises:
            ConceptError: for an unusable list of concepts, or one that the text encoder cannot hold.
        """
        started, names = time.perf_counter(), check_concepts(concepts)
        check_fit(self._reader, names)  # before the image, which takes longer
        return self.attribute(self.store(image, prompt=prompt, seed=seed), names, started=started)

    def store(self, image: str | Path | Image.Image, *, prompt: str = "", seed: int = 0) -> ImageRecord:
        """Shows the image to the transformer, once per noise draw, and keeps the image queries of every layer."""
        return self._reader.read(open_image(image), prompt, self._recipe, seed, {})

    def attribute(self, stored: ImageRecord, concepts: Sequence[str], *, started: float | None = None) -> ConceptMaps:
        """Maps of any concepts out of a stored image; the transformer sees the words, not the image.

        Args:
            stored: from `store` of a method with the same layers.
            concepts: words; each is encoded by itself.
            started: `time.perf_counter()` at the beginning of the work; now when None.

        Raises:
            ConceptError: for an unusable list of concepts, or one that the text encoder cannot hold.
            RecipeError: for an image that was stored with other layers.
        """
        started, names = time.perf_counter() if started is None else started, check_concepts(concepts)
        layers, wanted = [layer.layer for layer in stored.layers], list(self._recipe.layers or ())
        if layers != wanted:
            raise RecipeError(f"the image was stored with layers {layers}; got {wanted}. Store it again.")
        answer = self._reader.probe(stored, names, stored.recipe, {})
        where = {"image": stored.image, "prompt": stored.prompt, "seed": stored.seed, "started": started}
        text = {"tokens": answer.info.tokens, "text_length": answer.info.text_length}
        return maps_of(self, names, answer.scores, **text, **where)


def _parted(options: Mapping[str, Any]) -> tuple[tuple[int, ...] | None, CrossOptions]:
    """The layers, and the other settings."""
    layers = options.get("layers")
    if layers is not None and not (isinstance(layers, (list, tuple)) and all(type(layer) is int for layer in layers)):
        raise RecipeError(f"layers must be a list of whole numbers; got {shown(layers)}.")
    rest = {name: value for name, value in options.items() if name != "layers"}
    return None if layers is None else tuple(layers), options_of(CrossOptions, rest)
