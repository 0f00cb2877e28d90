"""Stable Diffusion 1, 2 and XL: opened, and read by the cross attention of their U-Net.

Maps of a picture follow OVAM (Marcos-Manchon et al., CVPR 2024, arXiv 2403.14291), zero-shot: the picture is noised
and shown to the U-Net once per noise draw, and the image queries q of the cross-attention layers of the down and up
blocks stay as the record. Words are looked up in an attribution text of any content, encoded without padding; per
layer and head P = softmax over its tokens of q k' / sqrt(d), with k' the layer's keys of that text. P is summed over
draws and heads, enlarged (bilinear) to the grid of the largest layer, and summed over layers; a word's map is the mean
over its tokens. So one reading answers words that nobody thought of when it was made.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from conceptlens.ops.attention import text_probabilities
from conceptlens.readers.base import Answer, Verb
from conceptlens.readers.cross_attention import CrossAttentionReader
from conceptlens.readers.loading import (
    DEMO_UNET,
    Defaults,
    adopted,
    classes_of,
    folder_of,
    location_of,
    model_defaults,
    open_pipeline,
    pipeline_name,
    resident,
)
from conceptlens.readers.orders import Order, Request
from conceptlens.readers.prompt_places import clip_positions, joined_prompt
from conceptlens.readers.unet_inputs import NoisedImage, UnetOptions, layer_grid, official_timestep, plain_unet
from conceptlens.readers.unet_painter import UnetPainter, unet_order
from conceptlens.values.errors import ConceptError, ModelError, RecipeError
from conceptlens.values.options import options_of
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import CallRecord, CrossLayer, ImageRecord, TokenGrid
from conceptlens.values.words import check_text
from conceptlens.watch.surroundings import usual_defaults
from conceptlens.watch.unet_attention import cross_layers, keys, queries, watch_cross_attention

SUPPORTED = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
_STREAM = "Use the method daam or ovam (read --method ovam), or a diffusion transformer."


class UnetReader(CrossAttentionReader):
    """A U-Net: it paints with maps of the prompt's words, and reads pictures for any words."""

    can: ClassVar[frozenset[Verb]] = frozenset({"generate", "read", "probe"})
    instead: ClassVar[Mapping[Verb, str]] = {
        "record": "Paint, then read the picture: its record answers any words.",
        "follow": _STREAM,
        "vectors": _STREAM,
    }
    read_options: ClassVar[frozenset[str]] = frozenset({"size", "timestep"})
    probe_options: ClassVar[frozenset[str]] = frozenset({"attribution"})
    method = "ovam"
    settable: ClassVar[frozenset[str]] = frozenset({"layers", "noise", "samples", "isolate"})

    @property
    def family(self) -> str:
        return "U-Net"

    @property
    def kind(self) -> str:
        return "a U-Net"

    @property
    def attention(self) -> dict[str, Any]:
        """The cross-attention modules that are read, by name; a layer's number is its place among them.

        Raises:
            ModelError: for a U-Net without any.
        """
        layers = cross_layers(plain_unet(self.pipeline), middle=False)
        if not layers:
            raise ModelError(
                "this U-Net has no cross-attention in its down and up blocks. Use Stable Diffusion 2 or XL."
            )
        return layers

    @property
    def shapes(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple((attn.heads, attn.inner_dim // attn.heads) for attn in self.attention.values())

    @property
    def base_recipe(self) -> Recipe:
        return replace(super().base_recipe, noise=official_timestep(self.pipeline.scheduler) / self._last_timestep)

    @property
    def _last_timestep(self) -> int:
        return len(self.pipeline.scheduler.alphas_cumprod) - 1

    def order(self, request: Request) -> Order:
        return unet_order(self.pipeline, request)

    def painter(self) -> UnetPainter:
        return UnetPainter(self.pipeline, self.model_id)

    @usual_defaults()
    def read(
        self, image: Image.Image, prompt: str, recipe: Recipe, seed: int, options: Mapping[str, Any]
    ) -> ImageRecord:
        """See `Reader.read`.

        Args:
            image: RGB; it is resized to a square.
            prompt: what the U-Net is told about it.
            recipe: its noise, in 0..1, counts along the training schedule; unless named that of the official code,
                step 49 of 50.
            seed: draws the autoencoder's sample and then the noise of each draw, on the CPU.
            options: `size`, the square's side in pixels (512 unless named); `timestep`, a noise level as an integer of
                the training schedule, in place of `noise`.
        """
        look = options_of(UnetOptions, {"samples": recipe.samples, **options})
        if look.timestep is None:
            look = replace(look, timestep=round(recipe.noise * self._last_timestep))
        elif recipe.noise not in (self.default_recipe(None).noise, look.timestep / self._last_timestep):
            raise RecipeError(f"noise={recipe.noise:g} and timestep={look.timestep} were given. Give one of them.")
        attention = self.attention
        names = [list(attention)[number] for number in recipe.layers or ()]
        seen: dict[str, list[Tensor]] = {name: [] for name in names}
        try:
            noised = NoisedImage(self.pipeline, image, look, seed)
            with watch_cross_attention(
                {name: attention[name] for name in names},
                lambda name, attn, hidden, text: seen[name].append(queries(attn, hidden)),
            ):
                for _ in range(look.samples):
                    noised.show(prompt)
        finally:
            self.pipeline.maybe_free_model_hooks()
        call = CallRecord(0, noised.grid, {})
        layers = tuple(
            _layer(number, call, seen[name]) for number, name in zip(recipe.layers or (), names, strict=True)
        )
        recipe = replace(recipe, noise=noised.timestep / self._last_timestep)
        return ImageRecord(layers, noised.grid, image, prompt, self.model_id, recipe, seed, options={"size": look.size})

    @usual_defaults()
    def probe(
        self,
        record: ImageRecord,
        names: tuple[str, ...],
        recipe: Recipe,
        options: Mapping[str, Any],
        keep: bool = False,
    ) -> Answer:
        """See `Reader.probe`.

        Args:
            record: from `read`, of this model.
            names: words of the attribution text.
            recipe: with `isolate` each word has a text of its own, so that its map does not depend on the others.
            options: `attribution`, any text; "a first, a second, ..." of the words unless named.
            keep: refused.

        Returns:
            Sums of probabilities, 0 and above.

        Raises:
            ConceptError: for a word that the attribution text lacks, or a text that is too long.
        """
        started, layers = time.perf_counter(), self.asked(record, recipe, keep)
        text = self.attribution(names, options)
        if recipe.isolate and options.get("attribution") is None:
            parts = [(joined_prompt("", (name,)), (name,)) for name in names]
        else:
            parts = [(text, names)]
        places = [(part, self.places(part, own)) for part, own in parts]
        with resident(self.pipeline):
            scores = torch.cat([self._scores(record.grid, layers, part, own) for part, own in places])
        info = replace(self.info(started), attribution=text, timestep=round(record.recipe.noise * self._last_timestep))
        return Answer(scores.float().cpu(), info)

    def attribution(self, names: Sequence[str], options: Mapping[str, Any]) -> str:
        """The text in which words are looked up. Raises a `RecipeError` for what is no text."""
        text = options.get("attribution")
        if text is None:
            return joined_prompt("", names)
        if not isinstance(text, str):
            raise RecipeError(f"attribution must be a text; got {text!r:.60}.")
        check_text(text, "attribution")
        return text

    def places(self, text: str, names: Sequence[str]) -> list[tuple[int, ...]]:
        """Positions of words in an attribution text, begin-of-text at 0.

        Raises:
            ConceptError: for a word that it lacks, or a text that is too long.
        """
        tokenizer = self.pipeline.tokenizer
        length = len(tokenizer(text, verbose=False).input_ids)
        if length > tokenizer.model_max_length:
            raise ConceptError(
                f"the attribution prompt has {length} tokens; the CLIP text encoder reads "
                f"{tokenizer.model_max_length}. Use fewer concepts or a shorter text."
            )
        return [clip_positions(tokenizer, text, name) for name in names]

    def encode(self, text: str) -> Float[Tensor, "1 token dim"]:
        """A text without padding, as the pipeline's own encoders see it (SDXL: both, penultimate layers joined)."""
        pipeline = self.pipeline
        states = []
        for suffix in ("", "_2"):
            encoder = getattr(pipeline, f"text_encoder{suffix}", None)
            if encoder is not None:
                ids = getattr(pipeline, f"tokenizer{suffix}")(text, return_tensors="pt", verbose=False).input_ids
                states.append(encoder(ids.to(self.device), output_hidden_states=True))
        if not states:
            raise ModelError(f"this {type(pipeline).__name__} has no text encoder, so words cannot be read. Load it.")
        lengths = [state.last_hidden_state.shape[1] for state in states]
        if len(set(lengths)) > 1:
            raise ConceptError(
                f"the two text encoders part {text!r:.60} into {lengths[0]} and {lengths[1]} tokens, so its words have "
                "no common places. Leave out repeated marks such as '!!'."
            )
        if len(states) == 1:
            return states[0].last_hidden_state.to(pipeline.unet.dtype)
        return torch.cat([made.hidden_states[-2] for made in states], dim=-1).to(pipeline.unet.dtype)

    def _scores(
        self, latents: TokenGrid, layers: Sequence[CrossLayer], text: str, places: Sequence[Sequence[int]]
    ) -> Float[Tensor, "concept rows cols"]:
        context, attention = self.encode(text), list(self.attention.values())
        grids = [layer_grid(layer.query.shape[2], latents) for layer in layers]
        rows, cols = max(grid.rows for grid in grids), max(grid.cols for grid in grids)
        texts = [keys(attention[layer.layer], context) for layer in layers]
        total = torch.zeros(context.shape[1], rows, cols, device=context.device)
        for draw in range(len(layers[0].query)):
            for layer, grid, key in zip(layers, grids, texts, strict=True):
                query = layer.draw(draw).query.to(context.device)
                summed = text_probabilities(query, key, layer.scale)[0].sum(dim=0)
                maps = rearrange(summed, "(rows cols) token -> 1 token rows cols", rows=grid.rows)
                total += F.interpolate(maps, (rows, cols), mode="bilinear", align_corners=False)[0]
        return torch.stack([total[list(place)].mean(dim=0) for place in places])


def _layer(number: int, call: CallRecord, draws: Sequence[Tensor]) -> CrossLayer:
    """One layer of a record, whose draws lie behind one another in memory, as they will when it is loaded again."""
    if not draws:
        raise ModelError(
            f"cross-attention layer {number} ran unseen. Remove what replaces or skips it, then read again."
        )
    return CrossLayer(number, call, torch.cat(list(draws)), 1 / math.sqrt(draws[0].shape[-1]))


def load_unet(
    model: object,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    offload: bool = False,
    single_stream: bool = False,
) -> UnetReader:
    """Loads, or adopts, a Stable Diffusion 1, 2 or XL pipeline.

    Args:
        model: a folder, a hub id, "demo-unet" (the embedded U-Net), or a loaded pipeline (used as it is; its device and
            dtype stay).
        device: "cuda", "cpu", ...; CUDA where there is one.
        dtype: float16 on CUDA, float32 elsewhere.
        offload: keep on the GPU only the part that runs (`enable_model_cpu_offload`).
        single_stream: refused; a U-Net has no such blocks.

    Raises:
        ModelError: when it cannot be loaded or is another kind of pipeline.
    """
    if single_stream:
        raise ModelError("a U-Net has no single-stream blocks. Leave single_stream out.")
    if (given := adopted(model)) is not None:
        _check_class(type(given).__name__, "this pipeline")
        return UnetReader(given, pipeline_name(given), Defaults())

    def check(source: str, index: Mapping[str, Any]) -> None:
        _check_class(str(index.get("_class_name")), source)

    source = location_of(model)
    folder = folder_of(source)
    opened = open_pipeline(folder, check, device=device, dtype=dtype, offload=offload, half=torch.float16)
    name = opened.model_id if folder is source else DEMO_UNET
    return UnetReader(opened.pipeline, name, model_defaults(model, opened.folder))


def is_unet(model: object) -> bool:
    """Whether a pipeline, folder or hub id is one that `load_unet` takes.

    Raises:
        ModelError: for a folder or hub id that cannot be opened.
    """
    return classes_of(model)[0] in SUPPORTED


def _check_class(name: str, source: str) -> None:
    if name not in SUPPORTED:
        raise ModelError(f"{source} is a {name}; a U-Net with text is needed. Use a {' or a '.join(SUPPORTED)}.")
