"""The adapter contract C1-C10, for every registered family on tiny random models of the real diffusers classes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from conceptlens import families as adapters
from conceptlens.families import registered
from conceptlens.families.base import Concepts, DiTAdapter
from conceptlens.ops.attention import image_attention
from conceptlens.readers.loading import Defaults, LoadedModel
from conceptlens.readers.reading import record_call
from conceptlens.readers.stream import ConceptProbe, ConceptStream
from conceptlens.readers.text_streams import reader_of
from conceptlens.session import Session
from conceptlens.values.early_exit import StopForward
from conceptlens.values.errors import ModelError
from conceptlens.values.models import Model
from conceptlens.values.recipe import REFINEMENTS, Recipe
from conceptlens.values.records import StreamLayer
from conceptlens.watch.recorder import HOOK, Recorder
from specimens import REENTRY_SPECIMENS, SPECIMENS
from specimens.random_models import LENGTH
from tiny_models import FAMILIES, Family, sd3_pipeline

ROWS, COLS = 4, 6
pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers on Mochi, without a GPU


STILL = {False: {}, True: {"num_frames": 1}}
"""What makes a video pipeline paint a picture."""


def adapter_for(transformer: Any) -> DiTAdapter:
    found = adapters.adapter_for(transformer)
    assert isinstance(found, DiTAdapter)
    return found


def concepts_like(call: dict[str, Any], count: int = 3) -> Concepts:
    tokens = torch.randn(count, call["encoder_hidden_states"].shape[-1], generator=torch.Generator().manual_seed(2))
    pooled = torch.zeros(call["pooled_projections"].shape[-1]) if "pooled_projections" in call else None
    return Concepts(tuple(f"c{i}" for i in range(count)), tokens, pooled)


def own_text(call: dict[str, Any]) -> Concepts:
    """The prompt's own tokens as concepts, each where it stands in the text."""
    tokens = call["encoder_hidden_states"][0]
    return Concepts(("own",) * len(tokens), tokens, None, positions=tuple(range(len(tokens))))


def run(adapter: DiTAdapter, call: dict[str, Any], on_layer: Any, **options: Any) -> Tensor:
    depth = len(adapter.blocks())
    settings = {"last": depth - 1, "outputs": frozenset(range(depth)), "queries": True, **options}
    with torch.no_grad(), Recorder(adapter, on_layer, **settings):
        return adapter.transformer(**call, return_dict=False)[0]


def hooks_left(module: Model) -> list[str]:
    return [
        name
        for name, part in module.named_modules()
        if hasattr(part, "_diffusers_hook") or part._forward_hooks or "forward" in vars(part)
    ]


def full_recipe(adapter: DiTAdapter, **options: Any) -> Recipe:
    return Recipe(**options).resolve(len(adapter.blocks()))


def live(adapter: DiTAdapter, call: dict[str, Any], concepts: Concepts, recipe: Recipe, **options: Any) -> Tensor:
    probe = ConceptProbe(adapter, concepts, recipe)
    run(adapter, call, probe, **options)
    return probe.scores.mean()


def test_every_registered_class_is_under_contract() -> None:
    built = {type(family.transformer()).__name__ for family in FAMILIES.values()}
    assert set(registered()) <= built | set(REENTRY_SPECIMENS), "add a builder to tests/tiny_models.py"


def test_every_served_class_has_a_specimen_and_every_specimen_its_class() -> None:
    assert set(SPECIMENS) == set(registered()), "add a tiny model to tests/specimens, or remove one"
    for name, (build, _) in SPECIMENS.items():
        assert type(build()).__name__ == name


@pytest.mark.parametrize("count", [0, 1, 20])
def test_c1_output_is_bit_identical(family: Family, count: int) -> None:
    transformer, call = family.transformer(), family.call(2, ROWS, COLS)
    adapter = adapter_for(transformer)
    with torch.no_grad():
        plain = transformer(**call, return_dict=False)[0]
    watch: Any = (
        (lambda block, record: None)
        if count == 0
        else ConceptProbe(adapter, concepts_like(call, count), full_recipe(adapter))
    )
    assert torch.equal(plain, run(adapter, call, watch))


def shadow_errors(adapter: DiTAdapter, call: dict[str, Any], text: int = 0) -> list[float]:
    """C2: the prompt's own tokens as concepts, against the model's text stream, block by block."""
    own = own_text(call)
    stream = ConceptStream(adapter, own, full_recipe(adapter))
    truth: list[Tensor | None] = []
    made: list[Tensor | None] = []
    handles = [
        block.register_forward_hook(lambda module, args, output: truth.append(output[text]))
        for block in adapter.blocks()
    ]

    def follow(block: Any, record: StreamLayer) -> None:
        stream.step(block, record)
        made.append(stream._hidden)

    try:
        run(adapter, call, follow)
    finally:
        for handle in handles:
            handle.remove()
    assert len(made) == len(truth) == len(adapter.blocks())
    assert [m is None for m in made] == [t is None for t in truth]
    pairs = [(m, t) for m, t in zip(made, truth, strict=True) if m is not None and t is not None]
    ours = [(m, t[:, : m.shape[1]]) for m, t in pairs]  # rows of a second encoder may follow
    return [((m - t).abs().max() / t.abs().max()).item() for m, t in ours]


def as_double(call: dict[str, Any]) -> dict[str, Any]:
    return {k: v.double() if floating(v) else v for k, v in call.items()}


def floating(value: Any) -> bool:
    return torch.is_tensor(value) and value.is_floating_point()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_c2_own_text_reproduces_the_text_stream(family: Family, dtype: torch.dtype, tolerance: float) -> None:
    call = family.call(1, ROWS, COLS)
    adapter = adapter_for(family.transformer().to(dtype))
    errors = shadow_errors(adapter, as_double(call) if dtype == torch.float64 else call, family.text)
    assert len(errors) >= len(adapter.blocks()) - 1
    for layer, error in enumerate(errors):
        assert error < tolerance, (
            f"{family.name} layer {layer}: text stream off by {error:.1e} (bar {tolerance}). "
            "docs/adding-a-model.md lists likely causes."
        )


def tap_errors(adapter: DiTAdapter, call: dict[str, Any]) -> list[float]:
    """C3: recorded q over [image; text] keys and values must give the recorded attention output."""
    own = own_text(call)
    stream = ConceptStream(adapter, own, full_recipe(adapter))
    errors = []

    def compare(block: Any, record: StreamLayer) -> None:
        side = stream.step(block, record).projection
        query = adapter.rotate(record.part("query"), record.call)
        made = image_attention(query, record.key, record.value, side.key, side.value)
        out = record.part("out")
        errors.append(((made - out).abs().max() / out.abs().max()).item())

    run(adapter, call, compare)
    return errors


def test_blocks_that_wait_give_the_scores_of_blocks_that_do_not(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three calls of a model, none of which waits, all of which do, and of which there is room for two."""
    adapter, call = adapter_for(family.transformer().double()), as_double(family.call(2, ROWS, COLS))
    recipe, concepts, depth = full_recipe(adapter), concepts_like(call), len(adapter.blocks())
    step, taken, sizes = ConceptStream.step, [], []

    def counted(stream: ConceptStream, block: Any, record: StreamLayer) -> Any:
        taken.append(record.batch)
        sizes.append(record.nbytes + record.value.nbytes)
        return step(stream, block, record)

    monkeypatch.setattr(ConceptStream, "step", counted)

    def scores(waiting: int) -> dict[tuple[int, int], Tensor]:
        probe = ConceptProbe(adapter, concepts, recipe, keep=True, waiting=waiting)
        outputs = frozenset(range(depth))
        with torch.no_grad(), Recorder(adapter, probe, last=depth - 1, outputs=outputs, queries=True):
            for scale in (1.0, 0.5, 0.25):
                adapter.transformer(**{**call, adapter.latents: call[adapter.latents] * scale})
            probe.finish()
        return probe.scores.parts

    alone = scores(0)
    assert taken == [2] * 3 * depth
    for room, rows in ((2**30, [6]), (round(2.5 * sizes[0] * depth), [4, 2])):
        taken.clear()
        together = scores(room)
        assert taken == [number for number in rows for _ in range(depth)]
        assert together.keys() == alone.keys()
        for place, part in together.items():
            torch.testing.assert_close(part, alone[place], rtol=1e-9, atol=1e-10)


def test_c3_taps_reproduce_the_attention_output(family: Family) -> None:
    adapter = adapter_for(family.transformer().double())
    errors = tap_errors(adapter, as_double(family.call(1, ROWS, COLS)))
    assert len(errors) == len(adapter.blocks())
    assert max(errors) < 1e-10, f"{family.name}: q, k, v or out is tapped in the wrong place: {errors}"


def test_the_rotation_of_image_keys_can_be_taken_off(family: Family) -> None:
    adapter = adapter_for(family.transformer())

    def undo(block: Any, record: StreamLayer) -> None:
        assert record.query is not None
        turned = adapter.rotate(record.part("query"), record.call)
        torch.testing.assert_close(adapter.unrotate(turned, record.call), record.query, rtol=1e-5, atol=1e-5)

    run(adapter, family.call(2, ROWS, COLS), undo)


@pytest.mark.parametrize("pair", ["query-key", "query-query"])
@pytest.mark.parametrize("rotated", ["concepts", "both", "neither"])
def test_the_cross_space_in_each_way_the_official_codes_write_it(family: Family, pair: Any, rotated: Any) -> None:
    """Each is the same live and from a record, and keys without rotation are those of the block."""
    call = family.call(1, ROWS, COLS)
    adapter = adapter_for(family.transformer())
    recipe = full_recipe(adapter, space="cross", cross_pair=pair, cross_rotated=rotated, cross_heads="sum")
    concepts = concepts_like(call)
    shown = live(adapter, call, concepts, recipe)
    with torch.no_grad():
        records = record_call(adapter, call, recipe)
    assert all((record.query is not None) == (pair == "query-query") for record in records)
    again = ConceptProbe(adapter, concepts, recipe)
    for record in records:
        again(adapter.blocks()[record.layer], record)
    assert torch.equal(shown, again.scores.mean())


@pytest.mark.parametrize("space", ["output", "cross", "value"])
@pytest.mark.parametrize("isolate", [False, True])
def test_c4_replay_equals_live(family: Family, space: Any, isolate: bool) -> None:
    call = family.call(2, ROWS, COLS)
    adapter = adapter_for(family.transformer())
    recipe, concepts = full_recipe(adapter, space=space, isolate=isolate), concepts_like(call)
    shown = live(adapter, call, concepts, recipe)
    with torch.no_grad():
        records = record_call(adapter, call, replace(recipe, space="cross"))
    again = ConceptProbe(adapter, concepts, recipe)
    for record in records:
        again(adapter.blocks()[record.layer], record)
    assert torch.equal(shown, again.scores.mean())


def test_c4_refined_replay_equals_live(family: Family) -> None:
    call = family.call(2, ROWS, COLS)
    adapter = adapter_for(family.transformer())
    chosen = tuple(name for name in REFINEMENTS if name != "joint-bilateral")  # which is of pictures, not of scores
    recipe, concepts = full_recipe(adapter, refine=chosen), concepts_like(call)
    shown = live(adapter, call, concepts, recipe)
    with torch.no_grad():
        records = record_call(adapter, call, recipe)
    again = ConceptProbe(adapter, concepts, recipe)
    for record in records:
        again(adapter.blocks()[record.layer], record)
    assert torch.equal(shown, again.scores.mean())
    assert not torch.equal(shown, live(adapter, call, concepts, full_recipe(adapter)))


def test_c5_early_exit_equals_the_full_forward(family: Family) -> None:
    call = family.call(1, ROWS, COLS)
    adapter = adapter_for(family.transformer())
    recipe, concepts = Recipe(layers=(0, 2)), concepts_like(call)
    full = live(adapter, call, concepts, recipe, outputs=frozenset(recipe.layers or ()))
    probe = ConceptProbe(adapter, concepts, recipe)
    calls = []
    handle = adapter.blocks()[3].register_forward_pre_hook(lambda *_: calls.append(3))
    with pytest.raises(StopForward):
        run(adapter, call, probe, last=2, outputs=frozenset((0, 2)), stop=True)
    handle.remove()
    assert not calls, "block 3 ran although block 2 was the last wanted one"
    assert torch.equal(full, probe.scores.mean())


def test_c6_permuting_concepts_permutes_maps(family: Family) -> None:
    call = as_double(family.call(1, ROWS, COLS))
    adapter = adapter_for(family.transformer().double())
    recipe, concepts = full_recipe(adapter), concepts_like(call, 4)
    order = [2, 0, 3, 1]
    shuffled = replace(concepts, tokens=concepts.tokens[order])
    straight, permuted = live(adapter, call, concepts, recipe), live(adapter, call, shuffled, recipe)
    torch.testing.assert_close(straight[:, order], permuted, rtol=1e-5, atol=1e-8)
    assert not torch.allclose(straight, permuted, rtol=1e-3)


def sized(pipeline: Any, rows: int = ROWS, cols: int = COLS, **more: Any) -> dict[str, Any]:
    adapter = adapter_for(pipeline.transformer)
    side = adapter.side_multiple(pipeline)
    if hasattr(pipeline, "video_processor"):
        frames = getattr(pipeline, "vae_scale_factor_temporal", None) or pipeline.vae_temporal_scale_factor
        more = {"num_frames": 1 + frames, **more}
    return {"height": rows * side, "width": cols * side, **taken(pipeline, max_sequence_length=LENGTH), **more}


def taken(pipeline: Any, **options: Any) -> dict[str, Any]:
    """Those of the options that the pipeline has."""
    known = inspect.signature(pipeline.__call__).parameters
    return {name: value for name, value in options.items() if name in known}


def pixels_of(maps: Any) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in getattr(maps, "images", None) or [maps.image]])


def session_of(pipeline: Any, rows: int = ROWS, cols: int = COLS) -> Session:
    defaults = Defaults(generate=sized(pipeline, rows, cols))
    return Session(reader_of(LoadedModel(pipeline, adapter_for(pipeline.transformer), "tiny", defaults)))


def captured_calls(transformer: Any, act: Any) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    bind = inspect.signature(type(transformer).forward).bind

    def note(module: Any, args: Any, kwargs: Any) -> None:
        calls.append(bind(module, *args, **kwargs).arguments)

    handle = transformer.register_forward_pre_hook(note, with_kwargs=True)
    try:
        act()
    finally:
        handle.remove()
    return calls


def test_c7_prepare_equals_the_pipelines_first_call(family: Family) -> None:
    pipeline = family.pipeline()
    adapter = adapter_for(pipeline.transformer)
    options = {**taken(pipeline, guidance_scale=1.0), **sized(pipeline, **STILL[family.video])}
    noise = torch.randn(1, *family.latents)
    given = family.pack(pipeline, noise)
    first = captured_calls(
        pipeline.transformer, lambda: pipeline(prompt="a red house", latents=given, num_inference_steps=2, **options)
    )[0]
    with torch.no_grad():
        made = adapter.prepare(pipeline, noise, "a red house", 1.0, options)
    check_arguments(made, first)


def check_arguments(made: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    """What an adapter made for a call is, bit for bit, what the pipeline gave."""
    for name, value in made.items():
        if value is None:
            assert first[name] is None
        else:
            torch.testing.assert_close(value, first[name], rtol=0, atol=0, msg=lambda text, n=name: f"{n}: {text}")


def test_c8_no_hooks_are_left(family: Family) -> None:
    transformer, call = family.transformer(), family.call(1, ROWS, COLS)
    adapter = adapter_for(transformer)
    assert hooks_left(transformer) == []
    run(adapter, call, lambda block, record: None)
    assert hooks_left(transformer) == []

    def fail(block: Any, record: StreamLayer) -> None:
        assert HOOK in transformer._diffusers_hook.hooks
        raise RuntimeError("inside the model")

    with pytest.raises(RuntimeError, match="inside the model"):
        run(adapter, call, fail)
    assert hooks_left(transformer) == []
    with pytest.raises(StopForward):
        run(adapter, call, lambda block, record: None, last=1, stop=True)
    assert hooks_left(transformer) == []


@pytest.mark.parametrize(("rows", "cols"), [(4, 6), (7, 3)])
def test_c9_non_square_grids(family: Family, rows: int, cols: int) -> None:
    adapter = adapter_for(family.transformer())
    records = record_call(adapter, family.call(1, rows, cols), Recipe(layers=(0,)))
    grid = records[0].call.grid
    assert (grid.rows, grid.cols) == (rows, cols)
    assert records[0].out is not None
    assert grid.frames == (2 if family.video else None)
    assert records[0].out.shape[1] == grid.tokens == rows * cols * (2 if family.video else 1)


def test_c9_orientation_of_a_read_image(family: Family) -> None:
    """A wide picture gives a wide grid, and what is drawn at the left is told apart from the right."""
    session = session_of(family.pipeline(), 12, 12)
    picture = Image.new("RGB", (72, 24))
    picture.paste((255, 255, 255), (36, 0, 72, 24))
    with torch.no_grad():
        record = session.read(picture, noise=0.0)
    rows, cols = record.grid.rows, record.grid.cols
    assert cols == 3 * rows
    out = record.layers[0].part("value")[0].transpose(0, 1).reshape(rows, cols, -1)
    # Away from the picture's border and from its middle, columns of one half look alike.
    left, right = out[1:-1, 1 : cols // 2 - 1].flatten(0, 1), out[1:-1, cols // 2 + 1 : -1].flatten(0, 1)
    assert (left.mean(0) - right.mean(0)).norm() > left.var(0).sum().sqrt()


def test_c10_with_guidance_the_conditional_half_is_read(family: Family) -> None:
    """Maps with classifier-free guidance equal those of the conditional call alone, on the first step."""
    session = session_of(family.pipeline())
    shared = {"seed": 3, "num_inference_steps": 2, "steps": (0,)}
    with_guidance = session.generate("a red house", ["house", "sky"], **shared, **family.guided)
    without = session.generate("a red house", ["house", "sky"], **shared, **family.plain)
    torch.testing.assert_close(with_guidance.scores, without.scores, rtol=1e-5, atol=1e-6)
    other = session.generate("a boat", ["house", "sky"], **shared, **family.plain)
    assert not torch.allclose(with_guidance.scores, other.scores, rtol=1e-4, atol=1e-5)


def test_the_pass_that_skips_layers_is_not_read() -> None:
    """Skip layer guidance of Stable Diffusion 3 calls the model a second time in a step, which does not count."""
    session = session_of(sd3_pipeline())
    shared: dict[str, Any] = {"seed": 3, "num_inference_steps": 3, "guidance_scale": 5.0, "keep": True}
    plain = session.generate("a red house", ["house", "sky"], **shared)
    skipped = {"skip_guidance_layers": [1], "skip_layer_guidance_stop": 1.0}
    calls = captured_calls(
        session.pipeline.transformer,
        lambda: shared.update(maps=session.generate("a red house", ["house", "sky"], **shared, **skipped)),
    )
    assert [call.get("skip_layers") for call in calls] == [None, None, [1], None, [1]]
    assert plain.parts is not None
    # The pictures part after step 1, the first with guidance.
    torch.testing.assert_close(shared["maps"].parts[:2], plain.parts[:2], rtol=1e-5, atol=1e-6)


def test_generation_is_bit_identical_and_deterministic(family: Family) -> None:
    session = session_of(family.pipeline())
    options = {"num_inference_steps": 2, "output_type": "pil", **session.generate_defaults}
    plain = session.pipeline(prompt="a red house", generator=torch.Generator().manual_seed(5), **options)
    plain = plain.frames[0] if family.video else plain.images[:1]
    one, two = (session.generate("a red house", ["house", "sky"], seed=5, num_inference_steps=2) for _ in range(2))
    assert np.array_equal(np.stack([np.asarray(picture) for picture in plain]), pixels_of(one))
    assert torch.equal(one.scores, two.scores)
    assert one.scores.shape == ((2, 2, 4, 6) if family.video else (2, 4, 6))


def test_batches_give_the_maps_of_single_runs(family: Family) -> None:
    if family.alone:
        pytest.skip("diffusers' autoencoder of this family decodes one video at a time")
    session = session_of(family.pipeline())
    noise = family.pack(session.pipeline, torch.randn(2, *family.latents))
    prompts = ["a red house", "a boat on the sea"]
    guided = taken(session.pipeline, guidance_scale=3.0)
    options = {"num_inference_steps": 2, **guided, **STILL[family.video]}
    both = session.generate(prompts, ["house", "sea"], latents=noise, **options)
    assert [maps.prompt for maps in both] == prompts
    for row, prompt in enumerate(prompts):
        alone = session.generate(prompt, ["house", "sea"], latents=noise[row : row + 1], **options)
        torch.testing.assert_close(both[row].scores, alone.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_follows_float32(family: Family, dtype: torch.dtype) -> None:
    call = family.call(1, ROWS, COLS)
    recipe = full_recipe(adapter_for(family.transformer()), softmax=False)
    exact = live(adapter_for(family.transformer()), call, concepts_like(call), recipe)
    adapter = adapter_for(family.transformer().to(dtype))
    halved = {k for k, v in call.items() if floating(v)} - (
        {"img_ids", "txt_ids", "timestep", "guidance"} - family.halved
    )
    half_call = {k: v.to(dtype) if k in halved else v for k, v in call.items()}
    half = live(adapter, half_call, concepts_like(call), recipe)
    assert half.dtype == torch.float32
    assert F.cosine_similarity(exact.flatten(), half.flatten(), dim=0) > 0.98


def test_fused_projections_give_the_same_maps(family: Family) -> None:
    call = family.call(1, ROWS, COLS)
    transformer = family.transformer()
    if not hasattr(transformer, "fuse_qkv_projections"):
        pytest.skip(f"diffusers does not fuse {type(transformer).__name__}")
    adapter = adapter_for(transformer)
    recipe = full_recipe(adapter)
    split = live(adapter, call, concepts_like(call), recipe)
    with torch.no_grad():
        transformer.fuse_qkv_projections()
    if family.name.startswith("sd3.5"):
        with pytest.raises(ModelError, match="leaves out the QK-norm"):
            live(adapter, call, concepts_like(call), recipe)
        transformer.unfuse_qkv_projections()
    torch.testing.assert_close(live(adapter, call, concepts_like(call), recipe), split, rtol=1e-5, atol=1e-6)


def test_sequential_offload_hooks_give_the_same_maps(family: Family) -> None:
    """Accelerate moves each module's weights in only while it runs: raw weights would read as zeros."""
    from accelerate import cpu_offload

    call = family.call(1, ROWS, COLS)
    transformer = family.transformer()
    adapter = adapter_for(transformer)
    kept = live(adapter, call, concepts_like(call), full_recipe(adapter))
    cpu_offload(transformer, execution_device=torch.device("cpu"))
    with torch.no_grad():
        assert torch.equal(kept, live(adapter, call, concepts_like(call), full_recipe(adapter)))


def test_concept_pass_vectors_with_the_own_text_are_the_models(family: Family) -> None:
    """With the prompt's own tokens as concepts, patches that attend to the concepts give the recorded output."""
    call = as_double(family.call(1, ROWS, COLS))
    adapter = adapter_for(family.transformer().double())
    own = own_text(call)
    quirk, plain = (full_recipe(adapter, softmax=False, image_vectors=v) for v in ("concept-pass", "model"))
    torch.testing.assert_close(live(adapter, call, own, quirk), live(adapter, call, own, plain), rtol=1e-9, atol=1e-9)


def test_a_lora_on_the_text_weights_is_followed(family: Family) -> None:
    from peft import LoraConfig

    call = as_double(family.call(1, ROWS, COLS))
    transformer = family.transformer().double()
    plain = live(adapter_for(transformer), call, concepts_like(call), Recipe(layers=(2,)))
    transformer.add_adapter(LoraConfig(r=2, target_modules=list(family.linears), init_lora_weights=False))
    adapter = adapter_for(transformer.double())
    assert max(shadow_errors(adapter, call, family.text)) < 1e-10
    assert not torch.allclose(plain, live(adapter, call, concepts_like(call), Recipe(layers=(2,))))


@pytest.mark.parametrize("guided", [False, True])
def test_unlabelled_guidance_calls_are_told_apart(guided: bool) -> None:
    """FLUX img2img does not label its two calls; the negative one must not count as a step."""
    from diffusers import FluxImg2ImgPipeline

    base = FAMILIES["flux"].pipeline()
    session = session_of(FluxImg2ImgPipeline(**base.components))
    session.pipeline.set_progress_bar_config(disable=True)
    picture = Image.new("RGB", (24, 16), (200, 30, 30))
    options = {"image": picture, "strength": 1.0, "num_inference_steps": 3, "seed": 0}
    more = {"true_cfg_scale": 4.0, "negative_prompt": "a boat"} if guided else {}
    maps = session.generate("a red house", ["house", "sky"], **options, **more)
    assert maps.details["steps"] == 3
    first = [session.generate("a red house", ["house", "sky"], steps=(0,), **options, **m).scores for m in (more, {})]
    torch.testing.assert_close(*first, rtol=1e-5, atol=1e-6)
