"""The check that needs no reference: the prompt's own text, sent through as concepts, must come out the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from conceptlens.families.base import Concepts, DiTAdapter, ModelAdapter
from conceptlens.families.kinds.reentry import ReentryAdapter
from conceptlens.ops.attention import image_attention
from conceptlens.readers.reentry import concept_outputs
from conceptlens.readers.stream import ConceptStream
from conceptlens.values.models import Module
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import EnteredLayer, StreamLayer
from conceptlens.watch.recorder import Recorder


def own_text(tokens: Tensor) -> Concepts:
    """All rows of a prompt's text, (row, ...), as concepts that stand where they stood."""
    flat = tokens.flatten(1)
    return Concepts(("own",) * len(flat), flat, None, positions=tuple(range(len(flat))))


@torch.no_grad()
def own_text_errors(adapter: ModelAdapter, call: Mapping[str, Any]) -> list[float]:
    """Largest deviation in each block, relative to the largest value there, for one call with a batch of one.

    With an adapter's own arithmetic the image's attention over [image; own text] is held against the recorded one,
    which takes queries, keys and values of both sides; with re-entry the text's attention output against the model's.
    """
    if isinstance(adapter, DiTAdapter):
        return _stream_errors(adapter, call)
    assert isinstance(adapter, ReentryAdapter)
    return _reentry_errors(adapter, call)


def _stream_errors(adapter: DiTAdapter, call: Mapping[str, Any]) -> list[float]:
    depth = len(adapter.blocks())
    stream = ConceptStream(adapter, own_text(call["encoder_hidden_states"][0]), Recipe().resolve(depth))
    errors: list[float] = []

    def compare(block: Module, record: StreamLayer) -> None:
        side = stream.step(block, record).projection
        query = adapter.rotate(record.part("query"), record.call)
        made = image_attention(query, record.key, record.value, side.key, side.value)
        errors.append(_deviation(made, record.part("out")))

    with Recorder(adapter, compare, last=depth - 1, outputs=frozenset(range(depth)), queries=True):
        adapter.transformer(**call)
    return errors


def _reentry_errors(adapter: ReentryAdapter, call: Mapping[str, Any]) -> list[float]:
    depth = len(adapter.blocks())
    own, wanted = own_text(adapter.layout.text_rows(call)[0]), frozenset(range(depth))
    records: list[EnteredLayer] = []
    truth: list[Tensor] = []
    handles = [
        adapter.text_tap(block).module.register_forward_pre_hook(lambda module, args: truth.append(args[0]))
        for block in adapter.blocks()
    ]
    try:
        with Recorder(adapter, lambda _, record: records.append(record), last=depth - 1, outputs=wanted):
            adapter.transformer(**call)
    finally:
        for handle in handles:
            handle.remove()
    made = concept_outputs(adapter, own, records, wanted)
    return [
        _deviation(made[record.layer], adapter.concept_rows(out, block, record, len(own.tokens)))
        for block, record, out in zip(adapter.blocks(), records, truth, strict=True)
    ]


def _deviation(made: Tensor, wanted: Tensor) -> float:
    return ((made - wanted).abs().max() / wanted.abs().max()).item()
