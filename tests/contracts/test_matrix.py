"""What people do to a model before they ask it: compile it, offload it, store it in fp8, cache its steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import cpu_offload
from diffusers import FirstBlockCacheConfig
from diffusers.hooks import apply_group_offloading
from test_adapters import COLS, ROWS, adapter_for, concepts_like, full_recipe, live, run, session_of

from conceptlens.readers.reading import record_call
from conceptlens.values.errors import ModelError
from tiny_models import FAMILIES, Family

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers on Mochi, without a GPU
DEVICE = torch.device("cpu")
OFFLOADED = ["flux", "sd3.5-medium", "qwen-image", "cogview4"]


def scores(family: Family, change: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Live maps of the plain model and of the changed one."""
    call = family.call(1, ROWS, COLS)
    found = []
    for act in (None, change):
        transformer = family.transformer()
        if act is not None:
            act(transformer)
        adapter = adapter_for(transformer)
        with torch.no_grad():
            found.append(live(adapter, call, concepts_like(call), full_recipe(adapter)))
    return found[0], found[1]


def test_group_offloading_by_leaves_gives_the_same_maps(family: Family) -> None:
    def leaves(transformer: Any) -> None:
        apply_group_offloading(transformer, DEVICE, DEVICE, offload_type="leaf_level")

    plain, offloaded = scores(family, leaves)
    assert torch.equal(plain, offloaded)


def test_group_offloading_by_blocks_is_refused(family: Family) -> None:
    transformer = family.transformer()
    apply_group_offloading(transformer, DEVICE, DEVICE, offload_type="block_level", num_blocks_per_group=1)
    with pytest.raises(ModelError, match="block-level group offloading"):
        run(adapter_for(transformer), family.call(1, ROWS, COLS), lambda block, record: None)


def test_weights_stored_in_eight_bits_follow_the_plain_maps(family: Family) -> None:
    """Layerwise casting: fp8 in memory, float32 while a layer runs."""

    def store(transformer: Any) -> None:
        transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)

    plain, stored = scores(family, store)
    assert stored.dtype == torch.float32
    assert torch.isfinite(stored).all()
    assert not torch.equal(plain, stored)
    assert F.cosine_similarity(plain.flatten(), stored.flatten(), dim=0) > 0.9


@pytest.mark.parametrize("name", OFFLOADED)
def test_weights_that_are_fetched_as_a_layer_runs_give_the_same_maps(name: str) -> None:
    def fetch(transformer: Any) -> None:
        cpu_offload(transformer, DEVICE)
        assert next(transformer.parameters()).is_meta

    plain, fetched = scores(FAMILIES[name], fetch)
    assert torch.equal(plain, fetched)


@pytest.mark.parametrize("name", OFFLOADED)
def test_a_device_map_with_blocks_on_the_disk_gives_the_same_maps(name: str, tmp_path: Path) -> None:
    """What the hub's loaders make of a model larger than memory; on GPUs see `tests/gpu`."""
    family = FAMILIES[name]
    call, plain = family.call(1, ROWS, COLS), family.transformer()
    plain.save_pretrained(tmp_path / "plain")
    places = {part: "cpu" for part, _ in plain.named_children() if part != "transformer_blocks"}
    places |= {f"transformer_blocks.{number}": "cpu" if number % 2 else "disk" for number in range(4)}
    spread = type(plain).from_pretrained(tmp_path / "plain", device_map=places, offload_folder=tmp_path / "disk")
    assert [next(block.parameters()).is_meta for block in spread.transformer_blocks] == [True, False, True, False]
    with torch.no_grad():
        found = [
            live(adapter_for(model), call, concepts_like(call), full_recipe(adapter_for(model)))
            for model in (plain, spread)
        ]
    assert torch.equal(*found)


def test_a_first_block_cache_is_refused(family: Family) -> None:
    transformer = family.transformer()
    if family.name in ("sd3.5-large", "sd3.5-medium", "sd3", "aura-flow", "chroma", "hunyuan-video-1.5"):
        pytest.skip(f"diffusers has no first block cache for {type(transformer).__name__}")
    transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    call = family.call(1, ROWS, COLS)
    with pytest.raises(ModelError, match="step cache"):
        record_call(adapter_for(transformer), call, full_recipe(adapter_for(transformer)))
    transformer.disable_cache()
    with torch.no_grad():
        assert len(record_call(adapter_for(transformer), call, full_recipe(adapter_for(transformer)))) == 4


@pytest.mark.slow
@pytest.mark.parametrize("order", ["compiled first", "hooked first"])
@pytest.mark.parametrize("name", ["flux", "sd3.5-medium", "flux2-klein", "qwen-image", "cogview4", "cogvideox-5b"])
def test_compiled_blocks_give_the_same_maps(name: str, order: str) -> None:
    """Regional compilation, before the first reading or after one: no capture is lost, no map moves."""
    family = FAMILIES[name]
    call = family.call(1, ROWS, COLS)
    transformer = family.transformer()
    adapter = adapter_for(transformer)
    recipe = full_recipe(adapter)
    with torch.no_grad():
        if order == "hooked first":
            live(adapter, call, concepts_like(call), recipe)
        plain = live(adapter_for(family.transformer()), call, concepts_like(call), recipe)
        for block in adapter.blocks():
            block.compile(backend="aot_eager")
        for _ in range(2):
            compiled = live(adapter, call, concepts_like(call), recipe)
            torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=1e-6)
        assert len(record_call(adapter, call, recipe)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flux", "flux2-klein", "qwen-image"])
def test_a_compiled_pipeline_paints_and_maps_as_before(name: str) -> None:
    pipeline = FAMILIES[name].pipeline()
    options: dict[str, Any] = {"seed": 3, "num_inference_steps": 2}
    before = session_of(pipeline).generate("a red house", ["house", "sky"], **options)
    pipeline.transformer.compile_repeated_blocks(backend="aot_eager")
    after = session_of(pipeline).generate("a red house", ["house", "sky"], **options)
    torch.testing.assert_close(after.scores, before.scores, rtol=1e-4, atol=1e-5)
