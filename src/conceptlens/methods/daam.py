"""DAAM (Tang et al., arXiv 2210.04885): cross-attention of a text-to-image U-Net, read off a noised real image.

Per layer and head of the down and up blocks, softmax over the tokens of q k / sqrt(d); every map is enlarged to the
latents' grid (bicubic, negative values cut), then the mean over layers and heads, then over a concept's tokens.
`protocol="paper"` repeats the script behind the rows "DAAM" of ConceptAttention (arXiv 2502.04320, Table 1): half of
the heads are left out, tokens match without regard to word endings, and with Stable Diffusion 2 the U-Net sees the
caption alone while the tokens are looked up in another text, so that they mostly hit padding.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.methods import register
from conceptlens.methods._options import maps_of
from conceptlens.methods._unet import UnetMethod
from conceptlens.ops.attention import text_probabilities
from conceptlens.readers.prompt_places import clip_positions, joined_prompt
from conceptlens.readers.unet_inputs import UnetOptions, encode_prompt, layer_grid
from conceptlens.values.records import ImageRecord, TokenGrid
from conceptlens.values.words import check_concepts
from conceptlens.watch.unet_attention import keys

_COARSEST = 8
"""Maps this many times smaller than the latents are left out, as in the `daam` package."""


@dataclass(frozen=True)
class DaamOptions(UnetOptions):
    """See `UnetOptions`; `protocol` "fixed" is the method, "paper" the script behind the published rows."""

    protocol: Literal["fixed", "paper"] = "fixed"


@register
class Daam(UnetMethod):
    """Mean cross-attention probabilities of a concept's tokens, 0 and above, on the grid of the latents."""

    name = "daam"
    summary = "cross-attention maps of a U-Net (Stable Diffusion XL or 2)"
    kind = DaamOptions

    @property
    def settings(self) -> Mapping[str, Any]:
        official = self._half and not self._is_xl
        return {**super().settings, "half_heads": self._half, "lookup": "official" if official else "prompt"}

    @property
    def _half(self) -> bool:
        return super().settings["protocol"] == "paper"

    @property
    def _is_xl(self) -> bool:
        return self._reader.pipeline.unet.config.addition_embed_type == "text_time"

    def texts(self, concepts: Sequence[str], caption: str) -> tuple[str, str]:
        """The prompt that the U-Net sees, and the text in which concepts are looked up: equal but for a quirk."""
        if self.settings["lookup"] == "official":
            return caption, joined_prompt(caption, concepts, separator="")
        text = joined_prompt(caption, concepts)
        return text, text

    @torch.no_grad()
    def explain(self, image: Image.Image, concepts: Sequence[str], *, prompt: str = "", seed: int = 0) -> ConceptMaps:
        """Maps of concepts; the U-Net sees "prompt,a first, a second, ...".

        Raises:
            ConceptError: for an unusable list of concepts, or more of them than the text encoder reads.
        """
        started = time.perf_counter()
        names, tokenizer = check_concepts(concepts), self._reader.pipeline.tokenizer
        shown, searched = self.texts(names, prompt)
        places = [clip_positions(tokenizer, searched, name, ignore_endings=self._half) for name in names]
        record = self.store(image, prompt=shown, seed=seed)
        mean = self._mean(record, sorted({p for place in places for p in place}))
        timestep = round(record.recipe.noise * (len(self._reader.pipeline.scheduler.alphas_cumprod) - 1))
        extra = {"tokens": dict(zip(names, map(list, places), strict=True)), "timestep": timestep}
        scores = mean.scores(places)
        return maps_of(self, names, scores, image=record.image, prompt=shown, seed=seed, started=started, **extra)

    def _mean(self, record: ImageRecord, tokens: Sequence[int]) -> _HeadMean:
        """The recorded queries held against the keys of the very prompt that was shown, padding included."""
        pipeline, attention = self._reader.pipeline, list(self._reader.attention.values())
        context = encode_prompt(pipeline, record.prompt)[0].to(pipeline.unet.dtype)
        texts = [keys(attention[layer.layer], context) for layer in record.layers]
        mean = _HeadMean(record.grid, tokens, half=self._half)
        for draw in range(self._options.samples):
            for layer, key in zip(self._reader.layers_of(record), texts, strict=True):
                mean.add(text_probabilities(layer.draw(draw).query, key, layer.scale)[0])
        return mean


class _HeadMean:
    """The running mean, over calls, layers and heads, of the enlarged maps of some tokens."""

    def __init__(self, latents: TokenGrid, tokens: Sequence[int], *, half: bool) -> None:
        self._latents, self._tokens, self._half = latents, list(tokens), half
        self._total: Tensor | None = None
        self._count = 0

    def add(self, probabilities: Float[Tensor, "head image token"]) -> None:
        """Takes one layer in one call."""
        grid = layer_grid(probabilities.shape[1], self._latents)
        if self._latents.rows // grid.rows >= _COARSEST:
            return
        chances = probabilities[:, :, self._tokens]
        if self._half:
            chances = chances[len(chances) // 2 :]
        maps = rearrange(chances, "head (rows cols) token -> head token rows cols", rows=grid.rows)
        size = (self._latents.rows, self._latents.cols)
        large = F.interpolate(maps, size, mode="bicubic", align_corners=False).clamp(min=0).sum(dim=0)
        self._total = large if self._total is None else self._total + large
        self._count += len(maps)

    def scores(self, places: Sequence[Sequence[int]]) -> Float[Tensor, "concept rows cols"]:
        assert self._total is not None
        rows = [[self._tokens.index(position) for position in place] for place in places]
        return torch.stack([self._total[chosen].mean(dim=0) for chosen in rows]) / self._count
