"""Cross attention of the prompt's own tokens in a diffusion transformer (arXiv 2502.04320, baseline, equation 12).

"text-to-image": the model's own attention of a concept's tokens to the patches, softmax over all text and image keys of
q_text k_image / sqrt(d); mean over heads, layers, samples and the concept's tokens. The default of FLUX.1.
"image-to-text": <k_text, q_image> after QK-norm, unscaled, mean over heads, softmax over all tokens of the prompt; mean
over layers, samples and tokens. The default of Stable Diffusion 3. `protocol="paper"` repeats the official script for
Stable Diffusion 3, which takes token 2 of the prompt ("a <word>") for every concept.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from conceptlens.families import adapter_for
from conceptlens.families.base import DiTAdapter
from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.methods import register
from conceptlens.methods._options import maps_of
from conceptlens.methods._text_side import TextSide, image_to_text, text_to_image, watch_text
from conceptlens.methods.base import MethodInfo, SaliencyMethod
from conceptlens.readers.prompt_places import clip_positions, joined_prompt, t5_positions
from conceptlens.session import Session, load
from conceptlens.values.errors import ConceptError, ModelError, RecipeError
from conceptlens.values.options import options_of
from conceptlens.values.records import StreamLayer
from conceptlens.values.words import check_concepts

_READING = ("layers", "noise", "samples")
_OFFICIAL_TOKEN, _OFFICIAL_NOISE = 2, 0.602
"""Begin-of-text, "a", the word; timestep 602 of 1000 is the last but one of four steps at shift 3."""


@dataclass(frozen=True)
class PromptOptions:
    """How the attention between prompt and patches is read.

    Attributes:
        direction: whose queries; None for the family's default.
        softmax: attention probabilities, otherwise the mean dot product (image keys after rotation, queries before).
        protocol: "fixed" looks the concepts up in the prompt, "paper" is the official script for Stable Diffusion 3.
    """

    direction: Literal["text-to-image", "image-to-text", None] = None
    softmax: bool = True
    protocol: Literal["fixed", "paper"] = "fixed"


@register
class PromptCrossAttention(SaliencyMethod):
    """Attention between the prompt's own tokens and the patches. Scores are in 0..1 with softmax."""

    name = "cross-attention-prompt"
    summary = "attention between the prompt's own tokens and the patches"
    info = MethodInfo(text_conditioned=True)

    def __init__(self, session: Session, **options: Any) -> None:
        """On an open session; `options` are the fields of `PromptOptions`, and `layers`, `noise`, `samples`."""
        session.require("follow")
        transformer = session.pipeline.transformer
        adapter = adapter_for(transformer)
        if adapter.prompts is None or not isinstance(adapter, DiTAdapter):
            raise ModelError(f"{self.name} reads FLUX.1 and Stable Diffusion 3; got a {type(transformer).__name__}.")
        self._session, self._adapter = session, adapter
        reading = {name: options.pop(name) for name in _READING if name in options}
        self._options = options_of(PromptOptions, options)
        self._prompts = adapter.prompts
        self._clip = self._prompts.clip_rows
        self._direction = self._options.direction or ("image-to-text" if self._clip else "text-to-image")
        if self._options.protocol == "paper":
            if not self._clip or self._direction != "image-to-text":
                raise RecipeError(
                    "protocol 'paper' is the official script for Stable Diffusion 3, image-to-text. For the published "
                    "row of FLUX.1 use the method cross-attention."
                )
            reading = {"layers": tuple(range(len(self._adapter.blocks()))), "noise": _OFFICIAL_NOISE, **reading}
        self._reading = {**reading, "space": "cross" if self._direction == "image-to-text" else "output"}
        self._recipe = session.recipe(**self._reading)

    @classmethod
    def load(
        cls, model: str | Path | None = None, *, device: str | None = None, **options: Any
    ) -> PromptCrossAttention:
        return cls(load(model, device=device), **options)

    @property
    def model_id(self) -> str:
        return self._session.model_id

    @property
    def settings(self) -> Mapping[str, Any]:
        read = {name: value for name, value in self._recipe.to_dict().items() if name in _READING}
        chosen = {"direction": self._direction, "softmax": self._options.softmax, "protocol": self._options.protocol}
        return {**chosen, **read, "layers": list(read["layers"])}

    def text(self, concepts: Sequence[str], prompt: str) -> str:
        """The prompt that the model sees: concepts that it lacks are added, "prompt, a first, a second"."""
        if self._options.protocol == "paper":
            return prompt
        missing = [name for name in concepts if not self._stands_in(prompt, name)]
        return joined_prompt(prompt, missing, separator=", ") if missing else prompt

    @torch.no_grad()
    def explain(self, image: Image.Image, concepts: Sequence[str], *, prompt: str = "", seed: int = 0) -> ConceptMaps:
        """Maps of concepts; those that the prompt lacks are added to it.

        Raises:
            ConceptError: for an unusable list of concepts, or more of them than the text encoder reads.
        """
        started = time.perf_counter()
        names = check_concepts(concepts)
        text = self.text(names, prompt)
        places = [self._positions(text, name) for name in names]
        layers = self._recipe.layers or ()
        with watch_text(self._adapter, layers) as side:
            record = self._session.read(image, prompt=text, seed=seed, **self._reading)
        side.check(layers)
        blocks = self._session.reader.layers_of(record)
        total = torch.stack([self._maps(blocks[layer], side, places) for layer in layers]).mean(dim=0)
        scores = rearrange(
            total[:, : record.grid.tokens], "concept (rows cols) -> concept rows cols", rows=record.grid.rows
        )
        tokens = dict(zip(names, map(list, places), strict=True))
        return maps_of(self, names, scores, image=record.image, prompt=text, seed=seed, started=started, tokens=tokens)

    def _stands_in(self, text: str, name: str) -> bool:
        try:
            return bool(self._positions(text, name))
        except ConceptError:
            return False

    def _positions(self, text: str, name: str) -> tuple[int, ...]:
        pipeline = self._session.pipeline
        if self._options.protocol == "paper":
            return (_OFFICIAL_TOKEN,)
        if self._clip:
            return clip_positions(pipeline.tokenizer, text, name)
        length = self._adapter.text_length(pipeline, self._session.generate_defaults)
        return t5_positions(getattr(pipeline, f"tokenizer{self._prompts.t5}"), text, name, length)

    def _maps(
        self, record: StreamLayer, side: TextSide, places: Sequence[Sequence[int]]
    ) -> Float[Tensor, "concept image"]:
        """One block's maps: the mean over samples and heads, then over each concept's tokens."""
        if self._direction == "text-to-image":
            chosen = sorted({position for place in places for position in place})
            attend = text_to_image(
                side.query[record.layer][:, :, chosen], side.key[record.layer], record.key, self._options.softmax
            )
            places = [[chosen.index(position) for position in place] for place in places]
        else:
            attend = image_to_text(side.key[record.layer], record.part("query"), self._options.softmax)
        return torch.stack([attend[list(place)].mean(dim=0) for place in places])
