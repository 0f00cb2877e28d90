"""Maps while generating: what is held does not grow with steps or layers, and nothing is left afterwards."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from test_adapters import COLS, ROWS, adapter_for, concepts_like, session_of

from conceptlens.readers.stream import ConceptProbe
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import StreamLayer
from conceptlens.watch.recorder import Recorder
from tiny_models import Family

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers on Mochi, without a GPU


def held() -> int:
    """Bytes of all living tensor storages."""
    storages = {}
    for thing in gc.get_objects():
        if type(thing) is torch.Tensor:
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@pytest.mark.parametrize("space", ["output", "cross"])
def test_held_bytes_do_not_grow_with_steps_or_layers(family: Family, space: Any) -> None:
    call = family.call(1, ROWS, COLS)
    adapter = adapter_for(family.transformer())
    probe = ConceptProbe(adapter, concepts_like(call), Recipe(space=space).resolve(4))
    seen: list[tuple[int, int, int]] = []

    def watch(block: Any, record: StreamLayer) -> None:
        seen.append((record.call.step, record.layer, held()))
        probe(block, record)

    options = {"last": 3, "outputs": frozenset(range(4)), "queries": space == "cross"}
    gc.freeze()  # what is there already need not be counted again and again
    try:
        with torch.no_grad(), Recorder(adapter, watch, **options):
            for _ in range(4):
                adapter.transformer(**call, return_dict=False)
    finally:
        gc.unfreeze()
    by_layer = [[bytes_ for step, at, bytes_ in seen if at == layer and step > 0] for layer in range(4)]
    for layer, sizes in enumerate(by_layer):
        assert max(sizes) == min(sizes), f"layer {layer} holds more with each step: {sizes}"
    one_record = 3 * ROWS * COLS * 48 * 4
    assert max(by_layer[3]) - min(by_layer[1]) < one_record, "later layers hold the records of earlier ones"


def test_nothing_is_left_after_generating(family: Family) -> None:
    session = session_of(family.pipeline())
    gc.freeze()  # what is there already need not be looked at again
    try:
        session.generate("a red house", ["house", "sky"], seed=0, num_inference_steps=2)
        gc.collect()
        before = held()
        for steps in (2, 3):
            session.generate("a red house", ["house", "sky"], seed=0, num_inference_steps=steps)
        gc.collect()
        assert held() <= before + 1024
    finally:
        gc.unfreeze()
