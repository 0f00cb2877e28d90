"""OVAM (Marcos-Manchon et al., CVPR 2024, arXiv 2403.14291): stored U-Net queries, scored with any attribution prompt.

Per cross-attention layer and head, softmax over the attribution prompt's tokens of q k' / sqrt(d), where k' comes from
its unpadded embedding; sum over calls and heads, enlarged (bilinear) to the largest layer's grid, sum over layers.
Zero-shot: no token is optimised.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.maps.picture_files import open_image
from conceptlens.methods import register
from conceptlens.methods._options import maps_of
from conceptlens.methods._unet import (
    NoisedImage,
    UnetMethod,
    keys,
    layer_grid,
    queries,
    token_probabilities,
    watch_cross_attention,
)
from conceptlens.methods._words import clip_positions, joined_prompt
from conceptlens.values.errors import ConceptError
from conceptlens.values.records import TokenGrid
from conceptlens.values.words import check_concepts


@dataclass(frozen=True)
class LayerQueries:
    """The image queries of one cross-attention layer in one call: (1, head, image, head_dim)."""

    name: str
    attn: Any
    query: Float[Tensor, "1 head image head_dim"]
    grid: TokenGrid

    def probabilities(self, context: Float[Tensor, "1 token dim"]) -> Float[Tensor, "1 head image token"]:
        """What the layer would attend to, given this text."""
        return token_probabilities(self.query, keys(self.attn, context))


@dataclass(frozen=True)
class StoredQueries:
    """An image as the U-Net saw it; see `Ovam.store`."""

    layers: tuple[LayerQueries, ...]
    image: Image.Image
    prompt: str
    seed: int
    timestep: int


@register
class Ovam(UnetMethod):
    """Cross-attention of words that need not be in the prompt. Scores are sums of probabilities, 0 and above."""

    name = "ovam"
    summary = "cross-attention of a U-Net with words outside the prompt (Stable Diffusion XL or 2)"

    def explain(self, image: Image.Image, concepts: Sequence[str], *, prompt: str = "", seed: int = 0) -> ConceptMaps:
        """Maps of concepts, each a part of the attribution prompt "a first, a second, ..."; see `attribute`."""
        started = time.perf_counter()
        names = check_concepts(concepts)
        self._positions(joined_prompt("", names), names)
        return self.attribute(self.store(image, prompt=prompt, seed=seed), names, started=started)

    @torch.no_grad()
    def store(self, image: Image.Image, *, prompt: str = "", seed: int = 0) -> StoredQueries:
        """Shows the image to the U-Net with `prompt`, once per sample, and keeps the queries of every layer."""
        picture = open_image(image)
        noised = NoisedImage(self._model.pipeline, picture, self._options, seed)
        kept: list[LayerQueries] = []

        def keep(name: str, attn: Any, hidden: Tensor, context: Tensor) -> None:
            kept.append(LayerQueries(name, attn, queries(attn, hidden), layer_grid(hidden.shape[1], noised.grid)))

        with watch_cross_attention(self._model.pipeline.unet, keep):
            for _ in range(self._options.samples):
                noised.show(prompt)
        return StoredQueries(tuple(kept), picture, prompt, seed, noised.timestep)

    @torch.no_grad()
    def attribute(
        self,
        stored: StoredQueries,
        concepts: Sequence[str],
        *,
        attribution: str | None = None,
        started: float | None = None,
    ) -> ConceptMaps:
        """Maps of words of an attribution prompt, without running the U-Net again.

        Args:
            stored: from `store`.
            concepts: words of the attribution prompt.
            attribution: any text; "a first, a second, ..." of the concepts when None.
            started: `time.perf_counter()` at the beginning of the work; now when None.

        Raises:
            ConceptError: for a word that the attribution prompt lacks, or a prompt that is too long.
        """
        started = time.perf_counter() if started is None else started
        names = check_concepts(concepts)
        text = joined_prompt("", names) if attribution is None else attribution
        places = self._positions(text, names)
        context = self.encode(text)
        rows, cols = (max(getattr(layer.grid, side) for layer in stored.layers) for side in ("rows", "cols"))
        total = torch.zeros(context.shape[1], rows, cols, device=context.device)
        for layer in stored.layers:
            summed = layer.probabilities(context)[0].sum(dim=0)
            maps = rearrange(summed, "(rows cols) token -> 1 token rows cols", rows=layer.grid.rows)
            total += F.interpolate(maps, (rows, cols), mode="bilinear", align_corners=False)[0]
        scores = torch.stack([total[list(place)].mean(dim=0) for place in places])
        where = {"image": stored.image, "prompt": stored.prompt, "seed": stored.seed, "started": started}
        return maps_of(self, names, scores, attribution=text, timestep=stored.timestep, **where)

    def encode(self, text: str) -> Float[Tensor, "1 token dim"]:
        """A text without padding, as the pipeline's own encoders see it (SDXL: both, penultimate layers joined)."""
        pipeline = self._model.pipeline
        states = []
        for suffix in ("", "_2"):
            encoder = getattr(pipeline, f"text_encoder{suffix}", None)
            if encoder is not None:
                ids = getattr(pipeline, f"tokenizer{suffix}")(text, return_tensors="pt", verbose=False).input_ids
                states.append(encoder(ids.to(encoder.device), output_hidden_states=True))
        lengths = [state.last_hidden_state.shape[1] for state in states]
        if len(set(lengths)) > 1:
            raise ConceptError(
                f"the two text encoders part {text!r:.60} into {lengths[0]} and {lengths[1]} tokens, so its words have "
                "no common places. Leave out repeated marks such as '!!'."
            )
        if len(states) == 1:
            return states[0].last_hidden_state.to(pipeline.unet.dtype)
        return torch.cat([made.hidden_states[-2] for made in states], dim=-1).to(pipeline.unet.dtype)

    def _positions(self, text: str, names: Sequence[str]) -> list[tuple[int, ...]]:
        tokenizer = self._model.pipeline.tokenizer
        length = len(tokenizer(text, verbose=False).input_ids)
        if length > tokenizer.model_max_length:
            raise ConceptError(
                f"the attribution prompt has {length} tokens; the CLIP text encoder reads "
                f"{tokenizer.model_max_length}. Use fewer concepts or a shorter text."
            )
        return [clip_positions(tokenizer, text, name) for name in names]
