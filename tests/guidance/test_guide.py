"""`guide` on tiny random pipelines: what it moves, what it leaves alone, what it records."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from conceptlens.guidance import TSAM, AttendAndExcite, Conform, Guidance, SynGen, guide
from conceptlens.guidance.driver import _Run
from conceptlens.guidance.tsam import PRESETS
from conceptlens.guidance.unets import GuidedUnet, layers_of_size
from conceptlens.values.early_exit import StopForward
from conceptlens.watch.prompt_text import TextAttentionReader
from conceptlens.watch.unet_attention import MapSink, capturing, frozen
from tiny_sd import SCHEDULERS, sd_pipeline, sdxl_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' schedulers

PROMPT = "a red house and a blue boat"
SMALL: dict[str, Any] = {"attention_size": (8, 8), "grad_norm": "rms"}
CALL: dict[str, Any] = {"num_inference_steps": 4, "output_type": "latent"}
GUIDANCES: list[Guidance] = [
    TSAM(alpha=0.1, steps=(0, 1, 2), **SMALL),
    AttendAndExcite(alpha=0.1, inner={0: 2}, bounds={0: 0.0}, **SMALL),
    Conform(alpha=0.1, inner={1: 1}, **SMALL),
    SynGen(alpha=0.1, **SMALL),
]


def started(pipeline: Any, guidance: Guidance, prompt: str = PROMPT, **options: Any) -> tuple[Any, torch.Tensor]:
    """A run before its first step, which tests look into, and its first latents."""
    call: dict[str, Any] = {"num_inference_steps": 4, **options}
    model = GuidedUnet(pipeline, [prompt], guidance, [torch.Generator().manual_seed(3)], call)
    return _Run(model, guidance, pipeline.scheduler), model.latents


def one_forward(pipeline: Any, **changes: Any) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    dtype = pipeline.unet.dtype
    arguments: dict[str, Any] = {
        "sample": torch.randn(1, 4, 16, 16, generator=random).to(dtype),
        "timestep": torch.tensor(500),
        "encoder_hidden_states": torch.randn(1, 77, 12, generator=random).to(dtype),
        **changes,
    }
    return pipeline.unet(**arguments, return_dict=False)[0]


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("changes", [{"alpha": 0}, {"steps": ()}], ids=str)
def test_without_a_step_the_pipeline_is_left_alone(name: str, changes: dict[str, Any]) -> None:
    plain: Any = sd_pipeline(name)(PROMPT, generator=torch.Generator().manual_seed(5), **CALL)
    result: Any = guide(sd_pipeline(name), PROMPT, TSAM(**changes), seed=5, **CALL)
    assert torch.equal(plain.images, result.images)
    assert result.steps == ()
    assert result.losses.shape == (0, 1)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_tiny_step_size_gives_nearly_the_plain_image(name: str) -> None:
    plain = guide(sd_pipeline(name), PROMPT, TSAM(alpha=0), seed=5, **CALL).images
    near = guide(sd_pipeline(name), PROMPT, TSAM(alpha=1e-7, **SMALL), seed=5, **CALL)
    far = guide(sd_pipeline(name), PROMPT, TSAM(alpha=0.1, **SMALL), seed=5, **CALL)
    torch.testing.assert_close(near.images, plain, atol=1e-4, rtol=1e-4)
    assert (far.images - plain).abs().max() > 1e-2
    assert [s.step for s in far.steps] == list(range(5 if name == "pndm" else 4))


@torch.no_grad()
def by_hand(pipeline: Any, guidance: Guidance, scale: float) -> torch.Tensor:
    """The authors' order: move the latents, predict with both prompts, step."""
    run, latents = started(pipeline, guidance)
    embeds = torch.cat(pipeline.encode_prompt(PROMPT, latents.device, 1, True)[1::-1])
    for index, timestep in enumerate(pipeline.scheduler.timesteps):
        if index in guidance.steps:
            latents = run.update(index, latents)
        twice = pipeline.scheduler.scale_model_input(torch.cat([latents] * 2), timestep)
        empty, full = pipeline.unet(twice, timestep, encoder_hidden_states=embeds, return_dict=False)[0].chunk(2)
        latents = pipeline.scheduler.step(empty + scale * (full - empty), timestep, latents, return_dict=False)[0]
    return latents


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_callback_does_what_a_loop_of_ones_own_does(name: str) -> None:
    guidance = TSAM(alpha=0.1, steps=(0, 2, 3), inner={2: 1}, **SMALL)
    loop = by_hand(sd_pipeline(name), guidance, 4.0)
    result = guide(sd_pipeline(name), PROMPT, guidance, seed=3, guidance_scale=4.0, **CALL)
    torch.testing.assert_close(result.images, loop, atol=1e-4, rtol=1e-4)


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    pipeline = sd_pipeline().to(torch.float64)
    run, latents = started(pipeline, TSAM(attention_size=(8, 8), gamma=3))
    timestep = pipeline.scheduler.timesteps[0]
    _, gradient, _ = run.gradient(latents, timestep)
    for seed in range(5):
        direction = torch.randn(latents.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        above, below = (run.gradient(latents + e * direction, timestep)[0].item() for e in (1e-5, -1e-5))
        assert (above - below) / 2e-5 == pytest.approx((gradient * direction).sum().item(), rel=1e-4)


def test_the_scale_of_the_loss_is_divided_out_of_the_gradient() -> None:
    pipeline = sd_pipeline()
    found = []
    for scale in (1.0, 4096.0):
        run, latents = started(pipeline, TSAM(attention_size=(8, 8), grad_scale=scale))
        found.append(run.gradient(latents, pipeline.scheduler.timesteps[0]))
    assert found[0][1].abs().max() > 0
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(found[0][0], found[1][0])


@pytest.mark.parametrize("guidance", GUIDANCES, ids=lambda g: g.name)
def test_a_small_step_lowers_the_loss(guidance: Guidance) -> None:
    pipeline = sd_pipeline()
    run, latents = started(pipeline, guidance)
    timestep = pipeline.scheduler.timesteps[0]
    first, gradient, maps = run.gradient(latents, timestep)
    run.before = list(maps)  # CONFORM's second step on
    first, gradient, _ = run.gradient(latents, timestep)
    second = run.gradient(run.move(latents, gradient, 0.003), timestep)[0]
    assert second.item() < first.item()


def test_inner_updates_lower_the_loss() -> None:
    guidance = TSAM(alpha=0.01, inner={0: 20}, steps=(0,), **SMALL)
    step = guide(sd_pipeline(), PROMPT, guidance, **CALL).steps[0]
    assert step.losses.shape == (21, 1)
    assert step.losses[-1].item() < step.losses[0].item()


def test_a_bound_ends_the_inner_updates_of_each_image() -> None:
    free = guide(sd_pipeline(), [PROMPT, "a sun"], TSAM(alpha=0.01, steps=(0,), **SMALL), **CALL)
    bound = free.losses[0].mean().item()  # between the two
    result = guide(
        sd_pipeline(), [PROMPT, "a sun"], TSAM(alpha=0.01, steps=(0,), inner={0: 3}, bounds={0: bound}, **SMALL), **CALL
    )
    assert result.steps[0].losses.isnan().any(0).tolist() == [False, True]
    assert result.steps[0].losses.shape == (4, 2)
    torch.testing.assert_close(result.images[1], free.images[1])  # moved once, as if there were no inner updates
    assert (result.images[0] - free.images[0]).abs().max() > 1e-3
    done = guide(sd_pipeline(), PROMPT, TSAM(alpha=0.01, steps=(0,), inner={0: 3}, bounds={0: 99.0}, **SMALL), **CALL)
    assert done.steps[0].losses.shape == (1, 1)


def test_a_falling_alpha_ends_at_the_square_root_of_a_half() -> None:
    falling = TSAM(alpha=2.0, alpha_schedule="sqrt_linear")
    assert [falling.step_size(step, 5) for step in (0, 2, 4)] == pytest.approx([2.0, 2 * 0.75**0.5, 2 * 0.5**0.5])
    assert [TSAM(alpha=2.0).step_size(step, 5) for step in (0, 4)] == [2.0, 2.0]


def test_maps_are_the_layers_own_attention() -> None:
    pipeline = sd_pipeline()
    seen: list[torch.Tensor] = []

    class Recording(AttnProcessor):
        def __call__(
            self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: Any, **_: Any
        ) -> torch.Tensor:
            query = attn.head_to_batch_dim(attn.to_q(hidden_states))
            key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
            seen.append(attn.get_attention_scores(query, key).unflatten(0, (-1, attn.heads)).mean(1))
            return super().__call__(attn, hidden_states, encoder_hidden_states)

    sink = MapSink((8, 8), early_exit=False)
    with torch.no_grad(), capturing(pipeline.unet, sink):
        one_forward(pipeline)
    for name, module in pipeline.unet.named_modules():
        if name.endswith("attn2"):
            module.set_processor(Recording())
    with torch.no_grad():
        one_forward(pipeline)
    assert len(seen) == len(sink.maps) == 4
    maps = sink.mean()
    torch.testing.assert_close(maps.sum(1), torch.ones(1, 8, 8), atol=1e-5, rtol=0)
    own = torch.stack(seen).mean(0).transpose(1, 2).unflatten(2, (8, 8))
    torch.testing.assert_close(maps, own, atol=1e-5, rtol=0)
    assert maps.std() > 1e-3


def test_the_unet_computes_as_ever_and_is_put_back() -> None:
    pipeline = sd_pipeline()
    unet = pipeline.unet
    processors, learning = dict(unet.attn_processors), [p.requires_grad for p in unet.parameters()]
    with torch.no_grad():
        plain = one_forward(pipeline)
        with capturing(unet, MapSink((8, 8), early_exit=False)):
            assert torch.equal(one_forward(pipeline), plain)

    def fail(checkpointing: bool) -> None:
        with frozen(unet, checkpointing=checkpointing), capturing(unet, MapSink((8, 8))):
            assert not any(p.requires_grad for p in unet.parameters())
            assert unet.is_gradient_checkpointing == checkpointing
            raise RuntimeError("stop")

    for checkpointing in (False, True):
        with pytest.raises(RuntimeError, match="stop"):
            fail(checkpointing)
    assert all(unet.attn_processors[name] is one for name, one in processors.items())
    assert [p.requires_grad for p in unet.parameters()] == learning
    assert not unet.is_gradient_checkpointing
    assert torch.is_grad_enabled()


def test_processors_still_get_their_own_arguments(caplog: pytest.LogCaptureFixture) -> None:
    pipeline, got = sd_pipeline(), []

    class Scaled(AttnProcessor):
        def __call__(
            self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, hue: float = 0, **_: Any
        ) -> Any:
            got.append(hue)
            return super().__call__(attn, hidden_states, encoder_hidden_states)

    pipeline.unet.set_attn_processor(Scaled())
    guide(pipeline, PROMPT, TSAM(alpha=0.1, steps=(0,), **SMALL), cross_attention_kwargs={"hue": 0.5}, **CALL)
    assert set(got) == {0.5}
    assert "not expected" not in caplog.text


def test_an_early_exit_changes_nothing() -> None:
    pipeline = sd_pipeline()
    run, latents = started(pipeline, TSAM(attention_size=(8, 8)))
    timestep, forwards = pipeline.scheduler.timesteps[0], []
    handle = pipeline.unet.conv_out.register_forward_hook(lambda *_: forwards.append(1))
    short = run.gradient(latents, timestep)
    assert not forwards  # it ended before its last layer
    run.model.sink.early_exit = False
    whole = run.gradient(latents, timestep)
    assert len(forwards) == 1
    handle.remove()
    for a, b in zip(whole, short, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    sink = MapSink((8, 8))
    sink.expected = 1
    with pytest.raises(StopForward), torch.no_grad(), capturing(pipeline.unet, sink):
        one_forward(pipeline)


LEVELS = {
    "block_out_channels": (8, 8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
}


@pytest.mark.parametrize("latents", [(16, 16), (8, 12), (10, 6)], ids=str)
@pytest.mark.parametrize("changes", [{}, LEVELS, {"mid_block_type": None}], ids=["two", "three", "no middle"])
def test_the_layers_of_a_size_are_known_beforehand(changes: dict[str, Any], latents: tuple[int, int]) -> None:
    unet = sd_pipeline(**changes).unet
    sinks = {level: MapSink(tuple(-(-side // 2**level) for side in latents), early_exit=False) for level in range(4)}
    for sink in sinks.values():
        with torch.no_grad(), capturing(unet, sink):
            text = torch.randn(1, 7, unet.config.cross_attention_dim)
            unet(torch.randn(1, unet.config.in_channels, *latents), 10, encoder_hidden_states=text)
        assert layers_of_size(unet, latents, sink.size) == (len(sink.maps) or None)
    assert sum(len(sink.maps) for sink in sinks.values()) == sum("attn2" in n[-5:] for n, _ in unet.named_modules())


def test_a_unet_of_another_shape_tells_by_itself() -> None:
    unet = sd_pipeline().unet
    unet.register_to_config(down_block_types=("KDownBlock2D",))
    assert layers_of_size(unet, (16, 16), (8, 8)) is None


def test_gradient_checkpointing_changes_nothing() -> None:
    found = []
    for checkpointing in (False, True):
        pipeline = sd_pipeline()
        run, latents = started(pipeline, TSAM(attention_size=(8, 8), checkpointing=checkpointing))
        found.append(run.gradient(latents, pipeline.scheduler.timesteps[0]))
        assert run.model.sink.expected == 4
        assert run.model.sink.early_exit != checkpointing
        assert not pipeline.unet.is_gradient_checkpointing
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_classifier_free_guidance_takes_no_part_in_the_gradient() -> None:
    moved = []
    for options in ({"guidance_scale": 1.0}, {"guidance_scale": 7.5}, {"negative_prompt": "a moon"}):
        result = guide(sd_pipeline(), PROMPT, TSAM(alpha=0.1, steps=(0,), **SMALL), seed=3, **options, **CALL)
        moved.append((result.losses, result.steps[0].maps[0], result.steps[0].moved))
    assert all(torch.equal(a, b) for other in moved[1:] for a, b in zip(moved[0], other, strict=True))


@pytest.mark.parametrize("guidance", GUIDANCES, ids=lambda g: g.name)
def test_a_batch_is_its_images_alone(guidance: Guidance) -> None:
    prompts = [PROMPT, "a green sun over the white cloud and a star"]
    both = guide(sd_pipeline(), prompts, guidance, seed=[7, 9], **CALL)
    assert both.seeds == (7, 9)
    for n, (prompt, seed) in enumerate(zip(prompts, both.seeds, strict=True)):
        alone = guide(sd_pipeline(), prompt, guidance, seed=seed, **CALL)
        # Guided steps carry the rounding of another batch size on; losses are held to 1e-5 below.
        torch.testing.assert_close(both.images[n : n + 1], alone.images, atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(both.losses[:, n : n + 1], alone.losses, atol=1e-5, rtol=1e-4)


def test_several_images_of_a_prompt() -> None:
    guidance = TSAM(alpha=0.1, steps=(0, 1), **SMALL)
    several = guide(sd_pipeline(), [PROMPT, "a sun"], guidance, seed=3, num_images_per_prompt=2, **CALL)
    assert several.seeds == (3, 4, 5, 6)
    assert [t.prompt for t in several.texts] == [PROMPT, PROMPT, "a sun", "a sun"]
    alone = guide(sd_pipeline(), "a sun", guidance, seed=5, **CALL)
    torch.testing.assert_close(several.images[2:3], alone.images, atol=1e-4, rtol=1e-4)


def test_the_record_of_a_run() -> None:
    calls = []

    def watch(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        calls.append((step, sorted(tensors)))
        return {}

    guidance = TSAM(alpha=0.1, steps=(0, 2), **SMALL)
    result = guide(sd_pipeline(), PROMPT, guidance, callback_on_step_end=watch, num_inference_steps=3)
    assert calls == [(0, ["latents"]), (1, ["latents"]), (2, ["latents"])]
    assert result.images[0].size == (32, 32)
    assert [s.step for s in result.steps] == [0, 2]
    step = result.steps[0]
    assert step.maps[0].shape == (7, 8, 8)
    assert step.similarity[0].shape == (7, 7)
    torch.testing.assert_close(step.similarity[0].diagonal(), torch.ones(7))
    assert step.moved.item() == pytest.approx(0.1, rel=0.1)  # rms steps of latents with rms 1
    assert result.targets[0] is not None
    torch.testing.assert_close(result.targets[0].sum(1), torch.ones(7))
    assert result.settings["method"] == "tsam"
    assert result.texts[0].words[1] == ("red", (2,))


def test_a_picture_that_is_not_square() -> None:
    guidance = TSAM(alpha=0.1, steps=(0, 1), attention_size=(8, 12), grad_norm="rms")
    result = guide(sd_pipeline(), PROMPT, guidance, height=32, width=48, **CALL)
    assert result.steps[0].maps[0].shape == (7, 8, 12)


def test_the_usual_size_is_a_quarter_of_the_latents() -> None:
    pipeline = sd_pipeline(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    result = guide(pipeline, PROMPT, TSAM(alpha=0.1, steps=(0,)), **CALL)
    assert result.steps[0].maps[0].shape == (7, 4, 4)


def test_float16_with_a_scaled_loss() -> None:
    exact, half = (
        started(sd_pipeline().to(dtype), TSAM(attention_size=(8, 8))) for dtype in (torch.float32, torch.float16)
    )
    timestep = torch.tensor(981)
    wide, small = exact[0].gradient(exact[1], timestep)[1], half[0].gradient(exact[1].half(), timestep)[1]
    assert small.dtype == torch.float32
    assert torch.cosine_similarity(wide.flatten(), small.flatten(), dim=0) > 0.99


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    plain = guide(sd_pipeline(), PROMPT, TSAM(alpha=0), **CALL).images
    with pytest.warns(UserWarning, match="a gradient was not finite, so an image was not moved"):
        result = guide(sd_pipeline(), PROMPT, TSAM(alpha=0.1, grad_scale=1e45, attention_size=(8, 8)), **CALL)
    torch.testing.assert_close(result.images, plain, atol=1e-5, rtol=1e-5)


def test_inference_mode_around_it() -> None:
    guidance = TSAM(alpha=0.1, steps=(0, 1), **SMALL)
    pipeline = sd_pipeline()
    with torch.inference_mode():
        inside = guide(pipeline, PROMPT, guidance, **CALL).images
    assert torch.equal(inside, guide(sd_pipeline(), PROMPT, guidance, **CALL).images)


def test_random_numbers_are_those_of_the_plain_call() -> None:
    noisy: dict[str, Any] = {"eta": 1.0, **CALL}
    plain = guide(sd_pipeline(), PROMPT, TSAM(alpha=0), seed=5, **noisy).images
    for steps in ((0,), (1,)):
        near = guide(sd_pipeline(), PROMPT, TSAM(alpha=1e-9, steps=steps, **SMALL), seed=5, **noisy).images
        torch.testing.assert_close(near, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("guidance", GUIDANCES, ids=lambda g: g.name)
def test_stable_diffusion_xl(guidance: Guidance) -> None:
    pipeline = sdxl_pipeline()
    plain = guide(pipeline, PROMPT, TSAM(alpha=0), guidance_scale=3.0, **CALL)
    result = guide(pipeline, PROMPT, guidance, guidance_scale=3.0, prompt_2=PROMPT, **CALL)
    assert (result.images - plain.images).abs().max() > 1e-3
    assert len(result.steps) == len([s for s in guidance.steps if s < 4])


def test_the_target_of_two_text_encoders() -> None:
    pipeline = sdxl_pipeline()
    text = started(pipeline, TSAM(attention_size=(8, 8)))[0].model.texts[0][0]
    assert [len(a) for a in text.attention] == [2, 3]
    assert text.unused_layers == 1
    first, second, both = (TSAM(gamma=1, first_encoder_weight=w).target(text) for w in (1, 0, 0.5))
    torch.testing.assert_close(both.sum(1), torch.ones(7))
    assert not torch.allclose(first, second)
    used = TSAM(gamma=1, first_encoder_weight=0, text_layers="used").target(text)
    torch.testing.assert_close(used, TSAM(gamma=1, first_encoder_weight=0, text_layers=(0, 1)).target(text))


def test_the_first_step_of_xl_sees_what_the_pipeline_gives() -> None:
    pipeline, seen = sdxl_pipeline(), []
    handle = pipeline.unet.register_forward_pre_hook(lambda _m, _a, kw: seen.append(kw), with_kwargs=True)
    guide(pipeline, PROMPT, TSAM(alpha=0), guidance_scale=1.0, **CALL)
    handle.remove()
    run, _ = started(pipeline, TSAM(attention_size=(8, 8)))
    for name in ("text_embeds", "time_ids"):
        assert torch.equal(run.model.arguments["added_cond_kwargs"][name], seen[0]["added_cond_kwargs"][name])
    assert torch.equal(run.model.arguments["encoder_hidden_states"], seen[0]["encoder_hidden_states"])


def test_presets() -> None:
    assert list(PRESETS) == ["paper-tifa", "paper-ae", "release", "transformer"]
    assert TSAM.preset("paper-tifa").alpha == 40
    changed = TSAM.preset("release", steps=(0,))
    assert (changed.gamma, changed.loss, changed.steps) == (3, "release_default", (0,))
    assert changed.step_size(49, 50) == pytest.approx(5 * 0.5**0.5)
    assert TSAM.preset("paper-ae").step_size(24, 50) == 10


def test_readers_are_gone_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = sd_pipeline()
    monkeypatch.setattr(TextAttentionReader, "attention", lambda _: 1 / 0)
    with pytest.raises(Exception, match="division by zero"):
        guide(pipeline, PROMPT, TSAM(alpha=0.1, **SMALL), **CALL)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in pipeline.text_encoder.modules())
