"""Transformers whose text is only keys and values of cross attention: opened, read, and asked for any words.

The definition is that of the method `concept-cross-attention`: image queries of a noised picture are recorded once, and
each word, encoded by itself as if it were the prompt, is held against them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from conceptlens.families import group_of
from conceptlens.families.cross import cross_layouts
from conceptlens.families.kinds.cross_attention import (
    METHOD,
    CrossLayout,
    at_noise,
    check_room,
    grid_of_size,
    missing_package,
    own_rows,
    painted_area,
    refusal,
    side_multiple,
    text_call,
    token_side,
    with_latents,
)
from conceptlens.families.kinds.latents import noised
from conceptlens.ops.attention import text_probabilities
from conceptlens.readers.base import Answer, Verb
from conceptlens.readers.cross_attention import CrossAttentionReader
from conceptlens.readers.loading import (
    Defaults,
    adopted,
    classes_of,
    location_of,
    model_defaults,
    open_pipeline,
    pipeline_name,
)
from conceptlens.readers.reading import working_size
from conceptlens.values.early_exit import StopForward
from conceptlens.values.errors import ModelError
from conceptlens.values.models import Pipeline
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import CallRecord, CrossLayer, ImageRecord, TokenGrid
from conceptlens.watch.cross_attention import LayerAttention, watch_cross_layers
from conceptlens.watch.recorder import check_compiled
from conceptlens.watch.surroundings import usual_defaults

_STREAM = f"Use its maps (probe, or read --method {METHOD}), or a diffusion transformer with a text stream."
_PAINTING = "Paint with its own pipeline, then read the picture: its record answers any words."


@dataclass(frozen=True)
class EncodedConcept:
    """A concept as keys of each wanted layer, which of their rows are its own tokens, and the pieces of those.

    `length` is that of the text as the first encoder read it, padding included.
    """

    layers: tuple[LayerAttention, ...]
    rows: tuple[int, ...]
    pieces: tuple[str, ...]
    length: int


class CrossReader(CrossAttentionReader):
    """A pipeline whose transformer has a `CrossLayout`: it reads pictures for any words.

    Raises:
        ModelError: for a pipeline that cannot be read so.
    """

    can: ClassVar[frozenset[Verb]] = frozenset({"read", "probe"})
    instead: ClassVar[Mapping[Verb, str]] = {
        "generate": _PAINTING,
        "record": _PAINTING,
        "follow": _STREAM,
        "vectors": _STREAM,
    }
    method = METHOD
    settable: ClassVar[frozenset[str]] = frozenset({"layers", "noise", "samples"})

    def __init__(self, pipeline: Pipeline, layout: CrossLayout, model_id: str, defaults: Defaults) -> None:
        super().__init__(pipeline, model_id, defaults)
        self.layout = layout
        why = refusal(pipeline)
        if why is not None:
            raise ModelError(f"{model_id} {why}")

    @property
    def family(self) -> str:
        return self.layout.name

    @property
    def kind(self) -> str:
        return f"a {self.layout.name} transformer, whose text is only read"

    @property
    def shapes(self) -> tuple[None, ...]:
        return (None,) * len(self.layout.layers(self.pipeline.transformer))

    @property
    def base_recipe(self) -> Recipe:
        """Each word is encoded by itself, so that its map does not depend on the others."""
        return replace(super().base_recipe, isolate=True)

    @usual_defaults()
    def read(
        self, image: Image.Image, prompt: str, recipe: Recipe, seed: int, options: Mapping[str, Any]
    ) -> ImageRecord:
        """One forward for each noise draw, which ends after the last wanted layer; the image's queries are kept.

        See `Reader.read`. The seed draws the noise on the CPU.
        """
        pipeline, layers, draws = self.pipeline, recipe.layers or (), []
        size = working_size(image.size, self._area(), side_multiple(pipeline, self.layout))
        grid, generator = grid_of_size(pipeline, size), torch.Generator("cpu").manual_seed(seed)
        try:
            arguments = text_call(pipeline, self.layout, prompt, size, self.defaults.generate).arguments
            processor = getattr(pipeline, "image_processor", None) or pipeline.video_processor
            pixels = processor.preprocess(image, height=size[1], width=size[0])
            clean = self.layout.clean_latents(pipeline.vae, pixels.to(self.device, pipeline.vae.dtype))
            clean = clean.to(torch.promote_types(pipeline.transformer.dtype, torch.float32))
            for _ in range(recipe.samples):
                drawn = torch.randn(clean.shape, generator=generator, dtype=torch.float32, device="cpu").to(clean)
                latents = noised(pipeline.scheduler, clean, drawn, recipe.noise)
                call = at_noise(pipeline, self.layout, arguments, recipe.noise)
                seen = _called(self, with_latents(pipeline, self.layout, call, latents), layers)
                draws.append([replace(layer, key=layer.key[:, :, :0], bias=None) for layer in seen])
        finally:
            pipeline.maybe_free_model_hooks()
        if draws[0][0].query.shape[2] != grid.tokens:
            raise ModelError(
                f"{draws[0][0].query.shape[2]} image tokens were seen where {grid.rows}x{grid.cols} were expected. "
                "Load the pipeline with its own autoencoder."
            )
        call = CallRecord(0, grid, {})
        records = tuple(_layer(call, each) for each in zip(*draws, strict=True))
        return ImageRecord(records, grid, image, prompt, self.model_id, recipe, seed)

    @usual_defaults()
    def probe(
        self,
        record: ImageRecord,
        names: tuple[str, ...],
        recipe: Recipe,
        options: Mapping[str, Any],
        keep: bool = False,
    ) -> Answer:
        """See `Reader.probe`; scores are probabilities of a word's own tokens, 0 to 1."""
        started, layers = time.perf_counter(), self.asked(record, recipe, keep)
        maps: list[Tensor] = []
        tokens: dict[str, list[str]] = {}
        length = 0
        numbers = [layer.layer for layer in layers]
        encoded = encode_concepts(self, names, numbers, noise=record.recipe.noise, grid=record.grid)
        for name, concept in zip(names, encoded, strict=True):
            maps.append(concept_map(layers, concept, record.grid))
            tokens[name], length = list(concept.pieces), concept.length
        info = replace(self.info(started), tokens=tokens, text_length=length)
        return Answer(torch.stack(maps).float().cpu(), info)

    def _area(self) -> int:
        given = self.defaults.generate
        if {"width", "height"} <= set(given):
            return given["width"] * given["height"]
        return painted_area(self.pipeline, self.layout)


def _layer(call: CallRecord, draws: Sequence[LayerAttention]) -> CrossLayer:
    """One layer of a record, whose draws lie behind one another in memory, as they will when it is loaded again."""
    keys = [draw.image_key for draw in draws if draw.image_key is not None]
    query = torch.cat([draw.query for draw in draws])
    return CrossLayer(draws[0].layer, call, query, draws[0].scale, torch.cat(keys) if keys else None)


def layout_of(name: str) -> CrossLayout | None:
    """Where the cross attention of a transformer class is; None for a class that is not read so."""
    return cross_layouts().get(name)


def load_cross(
    model: object,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    offload: bool = False,
    single_stream: bool = False,
) -> CrossReader:
    """Loads, or adopts, a pipeline whose text is only keys and values of cross attention.

    Args:
        model: a folder, a hub id, or a loaded pipeline (used as it is; its device and dtype stay).
        device: "cuda", "cpu", ...; CUDA where there is one.
        dtype: bfloat16 on CUDA, float32 elsewhere.
        offload: keep on the GPU only the part that runs (`enable_model_cpu_offload`).
        single_stream: refused; no block of such a model carries its text.

    Raises:
        ModelError: when it cannot be loaded or is another kind of model.
    """
    if single_stream:
        raise ModelError("a model whose text is only read has no single-stream blocks. Leave single_stream out.")
    if (given := adopted(model)) is not None:
        pipeline_class, name = classes_of(given)
        return CrossReader(given, _layout(name, pipeline_class), pipeline_name(given), Defaults())

    def check(source: str, index: Mapping[str, Any]) -> None:
        parts = [index[part][1] for part in ("transformer", "unet") if index.get(part)]
        _layout((parts or [None])[0] or str(index.get("_class_name")), source)

    opened = open_pipeline(location_of(model), check, device=device, dtype=dtype, offload=offload)
    layout = _layout(type(opened.pipeline.transformer).__name__, opened.model_id)
    return CrossReader(opened.pipeline, layout, opened.model_id, model_defaults(model, opened.folder))


def _layout(name: str, source: str) -> CrossLayout:
    layout = layout_of(name)
    if layout is None:
        group = group_of(name)
        next_step = "Use the method concept-attention." if group.applies else group.instead
        raise ModelError(
            f"{METHOD} reads transformers whose text is only keys and values ({', '.join(cross_layouts())}); "
            f"{source} has {name} ({group.name}). {next_step}"
        )
    return layout


def _called(model: CrossReader, arguments: Mapping[str, Any], layers: Sequence[int]) -> tuple[LayerAttention, ...]:
    """One partial forward; what each wanted layer computed with.

    Raises:
        ModelError: for a layer whose attention passed unseen, or that attends twice.
        LibraryError: when the model lacks a package.
    """
    transformer = model.pipeline.transformer
    with suppress(StopForward), watch_cross_layers(model.layout, transformer, layers, stop=True) as seen:
        try:
            transformer(**arguments)
        except NameError as error:
            raise missing_package(model.pipeline, error) from error
        except Exception as error:
            check_compiled(error)
            raise
    for layer in layers:
        if len(seen.get(layer, ())) != 1:
            found = len(seen.get(layer, ()))
            raise ModelError(
                f"block {layer} was expected to attend to text once in PyTorch's own attention; {found} were seen. "
                "Load the model without torch.compile, another attention backend or an image as a condition."
            )
    return tuple(seen[layer][0] for layer in layers)


def check_fit(model: CrossReader, names: Sequence[str]) -> None:
    """Refuses concepts that the text encoder cannot hold, as far as that is known before it runs.

    Raises:
        ConceptError: for the first one that is too long.
    """
    for name in names:
        check_room(model.pipeline, name, model.defaults.generate)


def encode_concepts(
    model: CrossReader,
    names: Sequence[str],
    layers: Sequence[int],
    *,
    noise: float | None = None,
    grid: TokenGrid | None = None,
) -> Iterator[EncodedConcept]:
    """Concepts as keys of the wanted layers, each read alone as if it were the prompt; one at a time, to spare memory.

    The transformer runs on the smallest picture it takes: in models of this kind text never reads the image, so its
    keys are those of any picture. In some of them they do depend on the noise level.

    Args:
        model: from `load_cross`.
        names: the concepts.
        layers: numbers of the wanted ones.
        noise: the level that the transformer is told, in 0..1; that of the pipeline's first step when None.
        grid: of the picture, for models that place their text beside it.

    Raises:
        ConceptError: for one that is too long or has no token.
    """
    pipeline, layout, options = model.pipeline, model.layout, model.defaults.generate
    side = side_multiple(pipeline, layout)
    size = (side, side)
    if layout.placed and grid is not None:
        size = (grid.cols * token_side(pipeline), grid.rows * token_side(pipeline))
    check_fit(model, names)
    try:
        with usual_defaults():
            empty = text_call(pipeline, layout, "", size, options)
        for name in names:
            with usual_defaults():
                text = text_call(pipeline, layout, name, size, options)
                call = text.arguments if noise is None else at_noise(pipeline, layout, text.arguments, noise)
                seen = _called(model, call, layers)
                rows, pieces = own_rows(pipeline, layout, name, text, empty, seen[0].key.shape[2])
            keys = tuple(replace(layer, image_key=None) for layer in seen)
            yield EncodedConcept(keys, rows, pieces, len(text.tokens[0].states))
    finally:
        pipeline.maybe_free_model_hooks()


def concept_map(layers: Sequence[CrossLayer], concept: EncodedConcept, grid: TokenGrid) -> Float[Tensor, "rows cols"]:
    """Probabilities of a concept's own tokens: the mean over tokens, heads, layers and draws.

    Args:
        layers: of a record.
        concept: encoded for these layers.
        grid: the token grid.
    """
    shares = []
    for number in range(len(layers[0].query)):
        for layer, text in zip(layers, concept.layers, strict=True):
            draw = layer.draw(number).to(text.key.device)
            seen = text_probabilities(draw.query, text.key, draw.scale, text.bias, draw.image_key)
            shares.append(seen[0, :, :, list(concept.rows)].mean(dim=(0, 2)))
    return torch.stack(shares).mean(dim=0).unflatten(0, (grid.rows, grid.cols))
