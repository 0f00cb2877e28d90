"""Extractor: a frozen `torch.nn.Module` of maps and dense features, for training loops.

The picture stays a tensor from beginning to end, on its device: one partial forward of the noised latents, with the
concept stream riding along in its hooks. All that does not depend on the picture (text, noise, positions) is made once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from conceptlens.families.base import Concepts, DiTAdapter
from conceptlens.readers.pictures import resized
from conceptlens.readers.reading import reading_size
from conceptlens.readers.stream import ConceptProbe, needs_queries
from conceptlens.readers.text_streams import StreamReader
from conceptlens.session import Session, load
from conceptlens.values.early_exit import StopForward
from conceptlens.values.errors import ConceptError, ImageError, ModelError, RecipeError, shown
from conceptlens.values.models import Module
from conceptlens.values.records import StreamLayer, TokenGrid
from conceptlens.values.words import check_concepts
from conceptlens.watch.inputs import watch_inputs
from conceptlens.watch.recorder import Recorder, opaque
from conceptlens.watch.surroundings import usual_defaults

_MOST_SHAPES = 16
"""Shapes of batches whose arguments are remembered."""


@dataclass(frozen=True)
class DenseFeatures:
    """Vectors of each patch, by block.

    Attributes:
        outputs: attention outputs of the image before their projection, which maps are made of.
        states: what goes into that attention: the residual stream after the block's own normalisation and modulation.
    """

    outputs: dict[int, Float[Tensor, "batch rows cols _dim"]]
    states: dict[int, Float[Tensor, "batch rows cols _width"]]


@dataclass(frozen=True)
class _Fixed:
    """What a forward of pictures of one shape takes besides the pictures.

    `index` says where each value of the transformer's latents stands in a picture's latents: how a pipeline packs them.
    """

    arguments: dict[str, Any]
    index: Int[Tensor, " value"]
    shape: tuple[int, ...]
    noise: Float[Tensor, "batch channel rows cols"]


class Extractor(nn.Module):
    """Maps of concepts and features of patches, for pictures in 0..1; gradients flow to the pictures alone.

    Under `torch.compile` it runs as it is, and what stands around it is compiled; its own blocks are with
    `session.pipeline.transformer.compile_repeated_blocks()`. `train()` leaves it in evaluation.

    Args:
        model: a session of a model whose text stream is written out, or what `conceptlens.load` takes. Its weights no
            longer require gradients.
        prompt: what the model is told about every picture.
        seed: of the noise, the same for every picture.
        preset: "paper" or "sharp", as for `Session.read`.
        **options: fields of `Recipe`: `noise=`, `layers=`, `softmax=`, ...

    Raises:
        ModelError: for a model of another kind, or that takes one picture at a time.
        RecipeError: for impossible settings.
    """

    def __init__(
        self, model: object = None, *, prompt: str = "", seed: int = 0, preset: str | None = None, **options: Any
    ) -> None:
        super().__init__()
        session = model if isinstance(model, Session) else load(model)
        session.require("vectors")
        assert isinstance(session.reader, StreamReader)
        self._reader, self._prompt, self._seed = session.reader, prompt, seed
        adapter = self._reader.adapter
        if adapter.one_picture:
            raise ModelError(f"{adapter.name} takes one picture at a time. Use session.read and session.probe.")
        self.recipe = session.recipe(preset, **options)
        if self.recipe.branch != "prompt":
            raise RecipeError("branch='negative' is for generate: an extractor has the prompt's alone. Drop it.")
        parts = {name: part for name, part in session.pipeline.components.items() if isinstance(part, nn.Module)}
        self.parts = nn.ModuleDict(parts)
        self.requires_grad_(False)
        self.eval()
        self._known: dict[Any, _Fixed] = {}

    def train(self, mode: bool = True) -> Extractor:
        """Stays in evaluation, whatever the module around it does."""
        return super().train(False)

    @opaque
    def forward(
        self, images: Float[Tensor, "batch 3 height width"], concepts: Sequence[str]
    ) -> Float[Tensor, "batch concept rows cols"]:
        """Scores of concepts on the patch grid, as `Session.read` and `Session.probe` give them.

        Args:
            images: in 0..1, on the model's device. Values are not checked, since that would wait for the device.
            concepts: any words; they alone compete in the softmax.

        Raises:
            ConceptError: for an unusable list of concepts.
            ImageError: for a tensor of another shape or kind.
        """
        names = check_concepts(concepts)
        if len(names) == 1 and self.recipe.softmax:
            raise ConceptError(f"{names[0]!r} alone would win everywhere. Add words, or set softmax=False.")
        probe = ConceptProbe(self._adapter, self._embedded(names), self.recipe)
        grid = self._run(images, probe)
        scores = probe.scores.mean()[..., : grid.tokens].unflatten(-1, (grid.rows, grid.cols))
        return scores.unflatten(0, (len(images), -1)).mean(dim=1)

    @opaque
    def features(self, images: Float[Tensor, "batch 3 height width"]) -> DenseFeatures:
        """Vectors of the patches in the wanted blocks, means over the noise draws. See `forward`."""
        outputs: dict[int, Tensor] = {}
        states: dict[int, Tensor] = {}

        def keep(block: Module, record: StreamLayer) -> None:
            if record.out is not None:
                entered = self._adapter.image_rows(seen[record.layer], record.call)
                outputs[record.layer] = _on_grid(record.out, record.call.grid, len(images))
                states[record.layer] = _on_grid(entered, record.call.grid, len(images))

        with watch_inputs(_entries(self._adapter, self.recipe.layers or ())) as seen:
            self._run(images, keep)
        return DenseFeatures(outputs, states)

    @property
    def _adapter(self) -> DiTAdapter:
        return self._reader.adapter

    def _embedded(self, names: tuple[str, ...]) -> Concepts:
        return self._reader.embed(names, self.recipe, self._reader.defaults.generate)

    def _run(self, images: Tensor, on_layer: Any) -> TokenGrid:  # noqa: ANN401 - a probe or a function
        """One forward up to the last wanted block, each of which is reported; the patch grid."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point() or not len(images):
            raise ImageError(
                f"images are a floating-point tensor (batch, 3, height, width) in 0..1; got {shown(images)} of "
                f"{str(images.dtype).removeprefix('torch.')}. Stack, scale or permute them."
            )
        pipeline, adapter, recipe = self._reader.pipeline, self._adapter, self.recipe
        size = reading_size(self._reader.model, (images.shape[3], images.shape[2]))
        pixels = resized(images, size) * 2 - 1
        clean = adapter.encode(pipeline, pixels.to(pipeline.vae.dtype)).repeat_interleave(recipe.samples, dim=0)
        dtype = pipeline.transformer.dtype
        fixed = self._fixed(tuple(clean.shape), clean.device, dtype)
        noised = adapter.add_noise(pipeline, clean.to(dtype).float(), fixed.noise, recipe.noise).to(dtype)
        packed = noised.flatten(1).index_select(1, fixed.index).unflatten(1, fixed.shape)
        grids: list[TokenGrid] = []

        def finish(block: Module, record: StreamLayer) -> None:
            grids.append(record.call.grid)
            on_layer(block, record)

        assert recipe.layers is not None
        last = recipe.layers[-1]
        recorder = Recorder(
            adapter,
            finish,
            last=last,
            outputs=frozenset(recipe.layers),
            queries=needs_queries(recipe),
            stop=True,
        )
        with recorder, suppress(StopForward):
            adapter.transformer(**{**fixed.arguments, adapter.latents: packed})
        if len(grids) != last + 1:
            raise ModelError(f"{len(grids)} of {last + 1} blocks were seen; the maps would be partial.")
        return grids[0]

    @usual_defaults()
    def _fixed(self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> _Fixed:
        key = (shape, device, dtype)
        if key not in self._known:
            if len(self._known) >= _MOST_SHAPES:
                del self._known[next(iter(self._known))]
            self._known[key] = self._made(shape, device, dtype)
        return self._known[key]

    def _made(self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> _Fixed:
        pipeline, adapter, recipe = self._reader.pipeline, self._adapter, self.recipe
        told = (self._prompt, recipe.noise, self._reader.defaults.generate)
        arguments = adapter.prepare(pipeline, torch.zeros(shape, device=device, dtype=dtype), *told)
        count = torch.Size(shape[1:]).numel()
        numbers = torch.arange(count, device=device, dtype=torch.float64).view(shape[1:]).expand(shape)
        packed = adapter.prepare(pipeline, numbers, *told)[adapter.latents]
        index = packed[0].flatten().long()
        if not torch.equal(index.sort().values, torch.arange(count, device=device)):
            raise ModelError(f"{adapter.name} changes the latents on their way. Use session.read and session.probe.")
        generator = torch.Generator("cpu").manual_seed(self._seed)
        drawn = torch.randn((recipe.samples, *shape[1:]), generator=generator)
        noise = drawn.to(device=device, dtype=dtype).float().repeat(shape[0] // recipe.samples, 1, 1, 1)
        return _Fixed(arguments, index, tuple(packed.shape[1:]), noise)


def _on_grid(rows: Tensor, grid: TokenGrid, images: int) -> Float[Tensor, "batch rows cols dim"]:
    placed = rows[:, : grid.tokens].unflatten(1, (grid.rows, grid.cols))
    return placed.unflatten(0, (images, -1)).mean(dim=1)


def _entries(adapter: DiTAdapter, layers: Sequence[int]) -> dict[int, Module]:
    """The modules that project the image to queries, by block: what goes in are its states.

    Raises:
        ModelError: for a family whose blocks have no such projections.
    """
    entries: dict[int, Module] = {}
    for layer in layers:
        block = adapter.blocks()[layer]
        attention = getattr(block, "attn", None) or getattr(block, "attn1", None)
        name = "to_qkv" if getattr(attention, "fused_projections", False) else "to_q"
        if not hasattr(attention, name):
            raise ModelError(f"{adapter.name} has no projection of the image's own. Use maps (forward).")
        entries[layer] = getattr(attention, name)
    return entries
