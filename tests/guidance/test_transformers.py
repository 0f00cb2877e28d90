"""T-SAM on multi-modal diffusion transformers: tiny FLUX.1 and Stable Diffusion 3 pipelines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler

import conceptlens as cl
from conceptlens.families import adapter_for
from conceptlens.families.base import DiTAdapter
from conceptlens.guidance import TSAM, guide
from conceptlens.guidance.driver import _Run
from conceptlens.guidance.joint_maps import JointMaps, joint_attention
from conceptlens.guidance.transformers import GuidedTransformer
from conceptlens.ops.alignment import cosine_matrix, row_normalized, target_matrix, tsam_loss
from conceptlens.watch.prompt_readings import aligned
from specimens.families import (
    flux_call,
    flux_transformer,
    sd3_call,
    sd3_medium_transformer,
    sd30_transformer,
)
from tiny_models import flux_pipeline, sd3_pipeline

PROMPT = "a red house and a blue boat"
SIDE: dict[str, Any] = {"height": 16, "width": 24}  # 4 x 6 patches
CALL: dict[str, Any] = {"num_inference_steps": 3, "output_type": "latent", "max_sequence_length": 32, **SIDE}
MAKERS: dict[str, Callable[[], Any]] = {"flux": flux_pipeline, "sd3": sd3_pipeline}
GUIDED = {"flux": {"true_cfg_scale": 4.0, "negative_prompt": "a moon"}, "sd3": {"guidance_scale": 4.0}}
TRY: dict[str, Any] = {"experimental": True, "grad_norm": "rms", "alpha": 0.05, "steps": (0, 1, 2)}


def started(pipeline: Any, guidance: TSAM, **options: Any) -> _Run:
    generators = [torch.Generator().manual_seed(3)]
    model = GuidedTransformer(pipeline, [PROMPT], guidance, generators, {**CALL, **options})
    return _Run(model, guidance, pipeline.scheduler)


@pytest.fixture(params=MAKERS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("changes", [{"alpha": 0}, {"steps": ()}], ids=str)
def test_without_a_step_the_pipeline_is_left_alone(family: str, changes: dict[str, Any]) -> None:
    options: dict[str, Any] = {**CALL, **GUIDED[family]}
    plain = MAKERS[family]()(PROMPT, generator=torch.Generator().manual_seed(5), **options).images
    result = guide(MAKERS[family](), PROMPT, TSAM(**{**TRY, **changes}), seed=5, **options)
    assert torch.equal(plain, result.images)
    assert result.steps == ()


@pytest.mark.parametrize("maps", ["output", "joint"])
def test_a_tiny_step_size_gives_nearly_the_plain_image(family: str, maps: Any) -> None:
    options: dict[str, Any] = {**CALL, **GUIDED[family]}
    plain = MAKERS[family]()(PROMPT, generator=torch.Generator().manual_seed(5), **options).images
    near, far = (
        guide(MAKERS[family](), PROMPT, TSAM(**{**TRY, "alpha": alpha}, maps=maps), seed=5, **options)
        for alpha in (1e-8, 0.05)
    )
    torch.testing.assert_close(near.images, plain, atol=1e-4, rtol=1e-4)
    assert (far.images - plain).abs().max() > 1e-2
    assert [step.step for step in far.steps] == [0, 1, 2]
    assert far.steps[0].maps[0].shape == (7, 4, 6)
    assert far.steps[0].moved.item() == pytest.approx(0.05, rel=0.1)


def test_every_call_sees_what_the_pipelines_own_call_sees(family: str) -> None:
    seen: list[dict[str, Any]] = []

    def keep(_module: Any, _args: Any, given: dict[str, Any]) -> None:
        seen.append(given)

    pipeline = MAKERS[family]()
    pipeline.transformer.register_forward_pre_hook(keep, with_kwargs=True)
    pipeline(PROMPT, generator=torch.Generator().manual_seed(3), **CALL, **({"guidance_scale": 1.0}))
    own = list(seen)
    seen.clear()
    run = started(MAKERS[family](), TSAM(**TRY), guidance_scale=1.0)
    assert torch.equal(run.model.latents, own[0]["hidden_states"])
    run.model.module.register_forward_pre_hook(keep, with_kwargs=True)
    model: Any = run.model
    forward, times = type(model.module).forward, []

    def watched(module: Any, **given: Any) -> Any:
        times.append(given["timestep"])
        assert set(given) >= {"encoder_hidden_states", "pooled_projections"}
        for name, value in given.items():
            if isinstance(value, torch.Tensor) and name not in ("hidden_states", "timestep"):
                assert torch.equal(value, own[0][name]), name
        return forward(module, **given)

    model.module.__class__ = type("Watched", (type(model.module),), {"forward": watched})
    for step in range(3):
        run.update(step, run.model.latents)
    assert all(torch.equal(a, b["timestep"]) for a, b in zip(times, own, strict=True))
    assert not seen, "the pipeline's own calls can be told from guidance's"


@pytest.mark.parametrize("maps", ["output", "joint"])
def test_the_gradient_is_the_slope_of_the_loss(family: str, maps: Any) -> None:
    make = flux_pipeline if family == "flux" else lambda: sd3_pipeline(sd30_transformer)  # QK-norm is float32, too
    run = started(make().to(torch.float64), TSAM(**TRY, maps=maps, gamma=2))
    latents, timestep = run.model.latents, run.scheduler.timesteps[1]
    assert latents.dtype == torch.float64
    _, gradient, _ = run.gradient(latents, timestep)
    # FLUX.1 rotates queries and keys in float32, whatever the model's precision, so that only steep ways are exact.
    step, tolerance, wander = (1e-5, 1e-6, 1.0) if family == "sd3" else (1e-3, 2e-3, 0.1)
    for seed in range(3):
        random = torch.randn(latents.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        direction = gradient / gradient.norm() + wander * random / random.norm()
        above, below = (run.gradient(latents + e * direction, timestep)[0].item() for e in (step, -step))
        slope = (gradient * direction).sum().item()
        assert (above - below) / (2 * step) == pytest.approx(slope, rel=tolerance)


@pytest.mark.parametrize("maps", ["output", "joint"])
def test_an_early_exit_changes_nothing(family: str, maps: Any) -> None:
    found, reached = [], []
    for early in (True, False):
        run = started(MAKERS[family](), TSAM(**TRY, maps=maps, blocks=(0, 1)))
        model: Any = run.model
        assert model.joint.early_exit
        model.joint.early_exit = early
        model.module.transformer_blocks[2].register_forward_hook(lambda *_, at=early: reached.append(at))
        found.append(run.gradient(model.latents, run.scheduler.timesteps[0]))
    assert reached == [False]
    for short, whole in zip(*[(loss, gradient, *maps) for loss, gradient, maps in found], strict=True):
        torch.testing.assert_close(short, whole, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("maps", ["output", "joint"])
def test_gradient_checkpointing_changes_nothing(family: str, maps: Any) -> None:
    found = []
    for checkpointing in (True, False):
        run = started(MAKERS[family](), TSAM(**TRY, maps=maps, checkpointing=checkpointing))
        found.append(run.gradient(run.model.latents, run.scheduler.timesteps[0])[:2])
        assert not run.model.module.gradient_checkpointing
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_weights_are_frozen_and_everything_is_put_back(family: str) -> None:
    pipeline = MAKERS[family]()
    pipeline(PROMPT, **CALL)  # transformers leaves hooks of its own on text encoders that have run
    weights = list(pipeline.transformer.parameters())
    weights[0].requires_grad_(False)
    learning = [weight.requires_grad for weight in weights]

    def hooks() -> int:
        parts = [pipeline.transformer, *(getattr(pipeline, n) for n in pipeline.components if "text_encoder" in n)]
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for part in parts for m in part.modules())

    before = hooks()
    guide(pipeline, PROMPT, TSAM(**TRY), **CALL)
    assert ([w.requires_grad for w in weights], hooks()) == (learning, before)
    assert all(weight.grad is None for weight in weights)

    def broken(*_: Any) -> None:
        raise KeyError("stop")

    handle = pipeline.transformer.transformer_blocks[1].register_forward_hook(broken)
    with pytest.raises(KeyError, match="stop"):
        guide(pipeline, PROMPT, TSAM(**TRY), **CALL)
    handle.remove()
    assert ([w.requires_grad for w in weights], hooks()) == (learning, before)


def planted(family: str, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Maps of seven text rows from queries and keys in which row j alone lights pixel 3 j + 1, and the model's own.

    Planted in four dimensions that FLUX.1 turns by the number of the image, which is 0.
    """
    model = (flux_transformer if family == "flux" else sd3_medium_transformer)()
    call = (flux_call if family == "flux" else sd3_call)(1, 4, 6)
    adapter, text = adapter_for(model), 7
    assert isinstance(adapter, DiTAdapter)
    own: Any = torch.nn.functional.scaled_dot_product_attention
    orders = {"flux": slice(0, text), "sd3": slice(24, None)}

    def plant(_module: Any, _args: Any, out: torch.Tensor) -> torch.Tensor:
        side = 1 if family == "flux" else 2  # where the token axis is
        made = torch.zeros_like(out).transpose(side, 1)
        rows = range(text) if made.shape[1] == text else [3 * j + 1 for j in range(text)]
        for j, row in enumerate(rows):
            made[:, row, ..., j % 4] = 9.0 * (-1) ** (j // 4)
        return made.transpose(side, 1)

    attn: Any = model.transformer_blocks[0].attn
    for module in (attn.norm_q, attn.norm_added_k):
        module.register_forward_hook(plant)
    joint = JointMaps(
        adapter,
        "joint",
        (0,),
        adapter.observe(call, slice(None), 0, None),
        [[[(j,) for j in range(text)]]],
        early_exit=False,
    )
    seen: list[torch.Tensor] = []

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **more: Any) -> torch.Tensor:
        if not seen:
            scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
            image = slice(text, None) if family == "flux" else slice(0, 24)
            seen.append(scores.softmax(-1).mean(1)[0, image, orders[family]].T.unflatten(-1, (4, 6)))
        return own(query, key, value, *args, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
    with torch.no_grad(), joint.reading():
        model(**call)
        (found,) = joint.mean()
    return torch.stack([found, seen[0]])


def test_the_order_of_text_and_image(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found, own = planted(family, monkeypatch)
    # The model's own softmax, cut where diffusers concatenates: [text, image] in FLUX.1, [image, text] in SD 3.
    torch.testing.assert_close(found, own, atol=1e-5, rtol=1e-4)
    assert found.flatten(1).argmax(1).tolist() == [3 * j + 1 for j in range(7)]


def test_joint_attention_is_one_softmax() -> None:
    random = torch.Generator().manual_seed(0)
    query, key, text = (torch.randn(2, 3, n, 8, generator=random) for n in (10, 10, 4))
    rows = torch.cat([text, key], 2)
    whole = (query @ rows.transpose(-1, -2) / 8**0.5).softmax(-1)[..., :4].mean(1).transpose(1, 2)
    torch.testing.assert_close(joint_attention(query, key, text), whole, atol=1e-6, rtol=1e-5)


def test_output_maps_are_those_of_concept_attention() -> None:
    """With the prompt's own tokens as concepts, the concept stream is the text stream (contract C2)."""
    from conceptlens.families.base import Concepts
    from conceptlens.readers.reading import record_call
    from conceptlens.readers.stream import ConceptProbe

    model, call = flux_transformer(), flux_call(1, 4, 6)
    adapter = adapter_for(model)
    assert isinstance(adapter, DiTAdapter)
    recipe = adapter.recipe(4).override({"layers": (1, 3), "pooled": "prompt"}).resolve(4)
    concepts = Concepts(tuple("abcdefg"), call["encoder_hidden_states"][0], None)
    probe = ConceptProbe(adapter, concepts, recipe)
    with torch.no_grad():
        for layer in record_call(adapter, call, recipe):
            probe(adapter.blocks()[layer.layer], layer)
        segments = [[[(j,) for j in range(7)]]]
        joint = JointMaps(
            adapter, "output", (1, 3), adapter.observe(call, slice(None), 0, None), segments, early_exit=False
        )
        with joint.reading():
            model(**call)
            (found,) = joint.mean()
    torch.testing.assert_close(found.flatten(1), probe.scores.mean()[0], atol=1e-5, rtol=1e-4)


def test_readings_of_the_text_encoders() -> None:
    flux = started(flux_pipeline(), TSAM(**TRY)).model.texts[0]
    assert [(text.causal, text.positions) for text in flux] == [(False, tuple(range(7))), (True, tuple(range(7)))]
    assert all(text.tokens == ("a", "red", "house", "and", "a", "blue", "boat") for text in flux)
    sd3 = started(sd3_pipeline(), TSAM(**TRY)).model.texts[0]
    assert [(text.causal, text.positions[0], len(text.attention)) for text in sd3] == [(False, 7, 1), (True, 0, 2)]
    for text in (*flux, *sd3):
        target = TSAM(gamma=1).target(text)
        torch.testing.assert_close(target.sum(1), torch.ones(7))
        assert torch.equal(target, target.tril()) == text.causal
    only = started(flux_pipeline(), TSAM(**TRY, text_encoders="clip")).model.texts[0]
    assert [text.causal for text in only] == [True]


def test_words_that_are_cut_differently() -> None:
    assert aligned(["a", "green", "glasses", ",", "please"], ["a", "green", "glasses,", "please"]) == [0, 1, 2, 2, 3]
    assert aligned(["1", "2"], ["12"]) == [0, 0]
    assert aligned(["zzz"], ["a"]) == [None]


def test_a_batch_is_its_images_alone(family: str) -> None:
    prompts, guidance = [PROMPT, "a sun on the sea"], TSAM(**TRY)
    both = guide(MAKERS[family](), prompts, guidance, seed=[7, 9], **CALL)
    for n, (prompt, seed) in enumerate(zip(prompts, both.seeds, strict=True)):
        alone = guide(MAKERS[family](), prompt, guidance, seed=seed, **CALL)
        torch.testing.assert_close(both.images[n : n + 1], alone.images, atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(both.losses[:, n : n + 1], alone.losses, atol=1e-4, rtol=1e-4)


def test_the_loss_of_full_rows() -> None:
    maps = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(0))
    target = target_matrix(torch.rand(4, 4, generator=torch.Generator().manual_seed(1)), 3.0, causal=False)
    similar = cosine_matrix(maps)
    similar = similar / similar.sum(1, keepdim=True)
    torch.testing.assert_close(tsam_loss(maps, target, "abs", causal=False), (target - similar).abs().sum())
    cosines = torch.cosine_similarity(target, similar, dim=1)
    torch.testing.assert_close(tsam_loss(maps, target, "cos_rows", causal=False), (1 - cosines).sum())
    torch.testing.assert_close(row_normalized(cosine_matrix(maps), causal=False), similar)


@pytest.mark.parametrize(
    ("changes", "options", "says"),
    [
        ({"loss": "release_default"}, {}, "release_default is of causal text encoders; T5 is none"),
        ({"blocks": ()}, {}, r"blocks must be numbers of dual-stream blocks, such as \(2, 3\); got \(\)"),
        ({"blocks": (9,)}, {}, "layers has 9, but there are 4 blocks"),
        ({"blocks": (-1,)}, {}, "block 3 has no text output. Leave it out of blocks"),
        ({}, {"prompt_3": "a sun"}, "prompt_3 differs from prompt"),
        ({}, {"height": 15}, "refused its settings: .*divisible by"),
    ],
)
def test_what_cannot_be_done(changes: dict[str, Any], options: dict[str, Any], says: str) -> None:
    with pytest.raises(cl.RecipeError, match=says):
        guide(sd3_pipeline(), PROMPT, TSAM(**TRY, **changes), **{**CALL, **options})


def test_a_scheduler_of_order_two() -> None:
    pipeline = flux_pipeline()
    pipeline.scheduler = FlowMatchHeunDiscreteScheduler()
    with pytest.raises(cl.ModelError, match="FlowMatchHeunDiscreteScheduler is of order 2.*FlowMatchEuler"):
        guide(pipeline, PROMPT, TSAM(**TRY), **CALL)


def test_an_ip_adapter(family: str) -> None:
    pipeline = MAKERS[family]()
    pipeline.transformer.encoder_hid_proj = torch.nn.Identity()
    with pytest.raises(cl.ModelError, match="an IP-Adapter is loaded"):
        guide(pipeline, PROMPT, TSAM(**TRY), **CALL)


def test_a_missing_text_encoder() -> None:
    pipeline = sd3_pipeline()
    pipeline.text_encoder_3 = None
    assert [text.causal for text in guide(pipeline, PROMPT, TSAM(**TRY), **CALL).texts] == [True]
    with pytest.raises(cl.RecipeError, match="this pipeline has no t5 text encoder to follow"):
        guide(pipeline, PROMPT, TSAM(**TRY, text_encoders="t5"), **CALL)
