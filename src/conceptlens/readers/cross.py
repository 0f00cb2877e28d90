"""Cross attention as a transformer computes it: image queries of a noised picture, keys of any text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from diffusers import DiffusionPipeline
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
from conceptlens.readers.loading import Defaults, folder_defaults, open_pipeline, pipeline_name
from conceptlens.readers.reading import working_size
from conceptlens.values.early_exit import StopForward
from conceptlens.values.errors import ModelError, RecipeError
from conceptlens.values.records import TokenGrid
from conceptlens.watch.cross_attention import LayerAttention, watch_cross_layers
from conceptlens.watch.recorder import check_compiled
from conceptlens.watch.surroundings import usual_defaults


@dataclass(frozen=True)
class EncodedConcept:
    """A concept as keys of each wanted layer, which of their rows are its own tokens, and the pieces of those.

    `length` is that of the text as the first encoder read it, padding included.
    """

    layers: tuple[LayerAttention, ...]
    rows: tuple[int, ...]
    pieces: tuple[str, ...]
    length: int


@dataclass(frozen=True)
class CrossRecord:
    """What one picture left behind: the image queries of each wanted layer, for each noise draw.

    Attributes:
        samples: for each draw the layers, in order.
        grid: the token grid.
        noise: the level at which it was read, in 0..1.
        prompt: what the model was told.
        seed: of the noise.
        image: the picture.
    """

    samples: tuple[tuple[LayerAttention, ...], ...]
    grid: TokenGrid
    noise: float
    prompt: str
    seed: int
    image: Image.Image


@dataclass(frozen=True)
class CrossModel:
    """A pipeline whose transformer is in `families.cross`, its id, and its defaults."""

    pipeline: Any
    layout: CrossLayout
    model_id: str
    defaults: Defaults = field(default_factory=Defaults)

    @property
    def depth(self) -> int:
        """The number of cross-attention layers."""
        return len(self.layout.layers(self.pipeline.transformer))


def load_cross(
    model: Any, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None, offload: bool = False
) -> CrossModel:
    """Loads, or adopts, a pipeline whose text is only keys and values of cross attention.

    Args:
        model: a folder, a hub id, or a loaded pipeline (used as it is; its device and dtype stay).
        device: "cuda", "cpu", ...; CUDA where there is one.
        dtype: bfloat16 on CUDA, float32 elsewhere.
        offload: keep on the GPU only the part that runs (`enable_model_cpu_offload`).

    Raises:
        ModelError: when it cannot be loaded or is another kind of model.
    """
    if isinstance(model, DiffusionPipeline):
        part = getattr(model, "transformer", None) or getattr(model, "unet", None)
        name = type(getattr(part, "_orig_mod", part)).__name__
        return _checked(CrossModel(model, _layout(name, type(model).__name__), pipeline_name(model)))

    def check(source: str, index: Any) -> None:
        parts = [index[part][1] for part in ("transformer", "unet") if index.get(part)]
        _layout((parts or [None])[0] or str(index.get("_class_name")), source)

    found = open_pipeline(model, check, device=device, dtype=dtype, offload=offload)
    layout = _layout(type(found.pipeline.transformer).__name__, found.model_id)
    return _checked(CrossModel(found.pipeline, layout, found.model_id, folder_defaults(found.folder)))


def _layout(name: str, source: str) -> CrossLayout:
    known = cross_layouts()
    if name not in known:
        group = group_of(name)
        next_step = "Use the method concept-attention." if group.applies else group.instead
        raise ModelError(
            f"{METHOD} reads transformers whose text is only keys and values ({', '.join(known)}); "
            f"{source} has {name} ({group.name}). {next_step}"
        )
    return known[name]


def _checked(model: CrossModel) -> CrossModel:
    why = refusal(model.pipeline)
    if why is not None:
        raise ModelError(f"{model.model_id} {why}")
    return model


def wanted_layers(model: CrossModel, layers: Sequence[int] | None) -> tuple[int, ...]:
    """Block numbers, the negative ones counted from the last block; all of them for None.

    Raises:
        RecipeError: for a block that the model lacks, or none at all.
    """
    depth = model.depth
    if layers is None:
        return tuple(range(depth))
    if not layers or not all(-depth <= layer < depth for layer in layers):
        raise RecipeError(f"layers must be some of 0 to {depth - 1} for this model; got {list(layers)}.")
    return tuple(sorted({layer % depth for layer in layers}))


def _called(model: CrossModel, arguments: Mapping[str, Any], layers: Sequence[int]) -> tuple[LayerAttention, ...]:
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


@usual_defaults()
def read_queries(
    model: CrossModel,
    image: Image.Image,
    prompt: str,
    *,
    noise: float,
    samples: int,
    seed: int,
    layers: Sequence[int],
) -> CrossRecord:
    """One forward for each noise draw, which ends after the last wanted layer; the image's queries are kept.

    Args:
        model: from `load_cross`.
        image: RGB.
        prompt: what the model is told; "" for nothing.
        noise: the noise level, from 0 (clean) to 1.
        samples: noise draws.
        seed: draws the noise, on the CPU.
        layers: from `wanted_layers`.
    """
    pipeline, options = model.pipeline, model.defaults.generate
    side = side_multiple(pipeline, model.layout)
    area = (
        options["width"] * options["height"]
        if {"width", "height"} <= set(options)
        else painted_area(pipeline, model.layout)
    )
    size = working_size(image.size, area, side)
    grid, draws = grid_of_size(pipeline, size), []
    generator = torch.Generator("cpu").manual_seed(seed)
    try:
        arguments = text_call(pipeline, model.layout, prompt, size, options).arguments
        processor = getattr(pipeline, "image_processor", None) or pipeline.video_processor
        pixels = processor.preprocess(image, height=size[1], width=size[0])
        clean = model.layout.clean_latents(pipeline.vae, pixels.to(pipeline._execution_device, pipeline.vae.dtype))
        clean = clean.to(torch.promote_types(pipeline.transformer.dtype, torch.float32))
        for _ in range(samples):
            drawn = torch.randn(clean.shape, generator=generator, dtype=torch.float32, device="cpu").to(clean)
            latents = noised(pipeline.scheduler, clean, drawn, noise)
            call = at_noise(pipeline, model.layout, arguments, noise)
            draws.append(_called(model, with_latents(pipeline, model.layout, call, latents), layers))
    finally:
        pipeline.maybe_free_model_hooks()
    if draws[0][0].query.shape[2] != grid.tokens:
        raise ModelError(
            f"{draws[0][0].query.shape[2]} image tokens were seen where {grid.rows}x{grid.cols} were expected. "
            "Load the pipeline with its own autoencoder."
        )
    return CrossRecord(tuple(map(_image_side, draws)), grid, noise, prompt, seed, image)


def _image_side(layers: Sequence[LayerAttention]) -> tuple[LayerAttention, ...]:
    """Without the prompt's keys, which nothing asks for later; a slice alone would keep them in memory."""
    return tuple(replace(layer, key=layer.key[:, :, :0].clone(), bias=None) for layer in layers)


def check_fit(model: CrossModel, names: Sequence[str]) -> None:
    """Refuses concepts that the text encoder cannot hold, as far as that is known before it runs.

    Raises:
        ConceptError: for the first one that is too long.
    """
    for name in names:
        check_room(model.pipeline, name, model.defaults.generate)


def encode_concepts(
    model: CrossModel,
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
        layers: from `wanted_layers`.
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
                told = text.arguments if noise is None else at_noise(pipeline, layout, text.arguments, noise)
                seen = _called(model, told, layers)
                rows, pieces = own_rows(pipeline, layout, name, text, empty, seen[0].key.shape[2])
            keys = tuple(replace(layer, image_key=None) for layer in seen)
            yield EncodedConcept(keys, rows, pieces, len(text.tokens[0].states))
    finally:
        pipeline.maybe_free_model_hooks()


@usual_defaults()
def concept_map(record: CrossRecord, concept: EncodedConcept) -> Float[Tensor, "rows cols"]:
    """Probabilities of a concept's own tokens: the mean over tokens, heads, layers and draws.

    Raises:
        ModelError: for those that are NaN.
    """
    shares = [
        layer.probabilities(text)[0, :, :, list(concept.rows)].mean(dim=(0, 2))
        for draw in record.samples
        for layer, text in zip(draw, concept.layers, strict=True)
    ]
    return torch.stack(shares).mean(dim=0).unflatten(0, (record.grid.rows, record.grid.cols))
