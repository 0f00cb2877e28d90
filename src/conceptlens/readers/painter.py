"""Orders to pictures with their maps."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from conceptlens.families.base import Concepts
from conceptlens.maps.image_maps import ConceptMaps, reference_maps
from conceptlens.maps.video_maps import VideoMaps, clip_of, maps_of
from conceptlens.readers.embedding import ConceptEmbedder
from conceptlens.readers.loading import LoadedModel
from conceptlens.readers.orders import Order, note_unknown
from conceptlens.readers.painting import Generation, generate
from conceptlens.readers.stream import Probe
from conceptlens.values.models import Pipeline
from conceptlens.values.provenance import RunInfo, Task, plain_values, versions_of
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import ImageRecord
from conceptlens.watch.prompt_text import warn_of_lost_words
from conceptlens.watch.surroundings import execution_device


class Painter:
    """Calls the pipeline as it is, with the concept stream riding along. Guidance wraps it."""

    def __init__(
        self, model: LoadedModel, embed: ConceptEmbedder, begin: Callable[[Concepts, Recipe, bool], Probe[Any]]
    ) -> None:
        """Paints with `model`; `begin` makes the probe of one run, which keeps the scores of each layer if told to."""
        self._model, self._embed, self._begin = model, embed, begin

    @property
    def pipeline(self) -> Pipeline:
        """The diffusers pipeline."""
        return self._model.pipeline

    def paint(self, order: Order) -> list[ConceptMaps | VideoMaps]:
        """Maps of each picture, or video, of the order.

        Raises:
            ConceptError: for a concept that the text encoders cannot read.
            RecipeError: for settings that the pipeline refuses; `BudgetError`, one of them, for a record beyond its
                budget.
            ModelError: for a model that cannot be read, or that gives NaN.
        """
        started = time.perf_counter()
        self._embed.renew()  # weights may have changed since the last call
        embedded = self._embed(order.names, order.recipe, order.pipeline)
        note_unknown(self._model.model_id, self._model.defaults, order.concepts)
        if order.seed is not None:  # else guidance calls, which says it itself
            self._note_lost_words(order)
        painted = generate(
            self.pipeline,
            self._model.adapter,
            lambda recipe: self._begin(embedded, recipe, order.keep),
            order.recipe,
            order.arguments(),
            order.keeping,
        )
        count = len(painted.images)
        info = replace(
            run_info(self._model, execution_device(self._model.pipeline), "generate", embedded, started),
            pipeline=plain_values(order.pipeline),
            steps=painted.steps,
            batch=count if count > 1 else None,
        )
        record = None if order.keeping is None else self._record(order, painted)
        return [self._maps(order, painted, row, info, record) for row in range(count)]

    def _note_lost_words(self, order: Order) -> None:
        """Warns of what the text that meets the image leaves out of a prompt; diffusers says that in its log alone."""
        pipeline = self.pipeline
        if "max_sequence_length" not in inspect.signature(pipeline.__call__).parameters:
            return
        length = self._model.adapter.text_length(pipeline, order.pipeline)
        parts = (getattr(pipeline, name, None) for name in ("tokenizer_3", "tokenizer_2", "tokenizer"))
        tokenizer = next((part for part in parts if hasattr(part, "model_max_length")), None)
        if tokenizer is None:
            return
        for prompt in dict.fromkeys(order.prompts):
            warn_of_lost_words(tokenizer, prompt, length)

    def _maps(
        self, order: Order, painted: Generation, row: int, info: RunInfo, record: ImageRecord | None
    ) -> ConceptMaps | VideoMaps:
        """Those of one picture of the call."""
        shared = {
            "concepts": order.names,
            "recipe": painted.recipe,
            "model_id": self._model.model_id,
            "prompt": order.prompts[row * len(order.prompts) // len(painted.images)],
            "seed": _seed(order),
            "background": order.background,
            "run_info": info,
        }
        references = reference_maps(order.pipeline.get("image"), [s[row] for s in painted.references], **shared)
        parts = None if painted.parts is None else painted.parts[:, :, row]
        matches = None if painted.matches is None else painted.matches[row]
        scored = {"scores": painted.scores[row], "parts": parts, "matches": matches}
        return maps_of(painted.images[row], record=record, references=references, **scored, **shared)

    def _record(self, order: Order, painted: Generation) -> ImageRecord:
        clip = clip_of(painted.images[0])
        return ImageRecord(
            painted.layers,
            painted.layers[0].call.grid,
            painted.images[0].convert("RGB") if clip is None else clip.frames[0],
            order.prompts[0],
            self._model.model_id,
            painted.recipe,
            _seed(order),
            painted.steps,
            plain_values(order.pipeline),
            clip,
        )


def run_info(
    model: LoadedModel, device: torch.device, task: Task, concepts: Concepts, started: float, pictures: int = 1
) -> RunInfo:
    """What a concept stream says of its computation.

    Args:
        model: the model.
        device: where it computed; to ask the pipeline takes as long as a small model's maps.
        task: what was done.
        concepts: as they were embedded.
        started: the `time.perf_counter()` of its beginning.
        pictures: how many shared the time.
    """
    return RunInfo(
        task=task,
        family=model.adapter.name,
        single_stream=model.adapter.single_stream or None,
        caveat=model.adapter.caveat or None,
        tokens={name: list(pieces) for name, pieces in zip(concepts.names, concepts.pieces, strict=False)},
        text_length=concepts.length,
        dtype=str(model.pipeline.transformer.dtype).removeprefix("torch."),
        device=str(device),
        seconds=round((time.perf_counter() - started) / pictures, 3),
        versions=versions_of("diffusers", "torch"),
    )


def _seed(order: Order) -> int | None:
    """The seed that paints these pictures again: none where the noise was the caller's own."""
    return None if "latents" in order.pipeline else order.seed
