"""DAAM and OVAM on tiny U-Nets of the real classes: against a slow oracle, and their properties."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conceptlens.methods.daam import Daam
from conceptlens.methods.ovam import Ovam
from conceptlens.ops.attention import text_probabilities
from conceptlens.readers.prompt_places import clip_positions, joined_prompt
from conceptlens.readers.unet_inputs import NoisedImage, UnetOptions, layer_grid
from conceptlens.readers.unets import load_unet
from conceptlens.session import Session
from conceptlens.values.errors import ConceptError, ModelError, RecipeError
from conceptlens.values.records import CrossLayer, TokenGrid
from conceptlens.watch.unet_attention import cross_layers, keys, queries, watch_cross_attention
from oracles.daam import layer_maps_by_loops, word_map_by_loops
from tiny_methods import method_class
from tiny_models import flux_pipeline, tokenizers
from tiny_unets import METHODS_TINY_UNET, SIDE, sd2_pipeline, sdxl_pipeline

PIPELINES = {"sdxl": sdxl_pipeline, "sd2": sd2_pipeline}
SMALL = UnetOptions(size=SIDE)


@pytest.fixture(scope="module", params=PIPELINES)
def pipeline(request: pytest.FixtureRequest) -> Any:
    return PIPELINES[request.param]()


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8))


def call(pipeline: Any) -> dict[str, Any]:
    """Arguments of one U-Net call, without any of the package's own code."""
    random = torch.Generator().manual_seed(1)
    width = pipeline.unet.config.cross_attention_dim
    arguments: dict[str, Any] = {
        "sample": torch.randn(1, 4, 8, 12, generator=random),
        "timestep": torch.tensor([21]),
        "encoder_hidden_states": torch.randn(1, 77, width, generator=random),
    }
    if pipeline.unet.config.addition_embed_type == "text_time":
        texts, times = torch.randn(1, 10, generator=random), torch.tensor([[32.0, 32, 0, 0, 32, 32]])
        arguments["added_cond_kwargs"] = {"text_embeds": texts, "time_ids": times}
    return arguments


def layers_of(pipeline: Any) -> dict[str, Any]:
    return cross_layers(pipeline.unet, middle=False)


def probabilities_of(attn: Any, hidden: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    query = queries(attn, hidden).contiguous()
    return text_probabilities(query, keys(attn, context), query.shape[-1] ** -0.5)


@torch.no_grad()
def probabilities(pipeline: Any, arguments: dict[str, Any]) -> dict[str, torch.Tensor]:
    """(head, image, token) of every layer."""
    seen: dict[str, torch.Tensor] = {}

    def note(name: str, attn: Any, hidden: torch.Tensor, context: torch.Tensor) -> None:
        seen[name] = probabilities_of(attn, hidden, context)[0]

    with watch_cross_attention(layers_of(pipeline), note):
        pipeline.unet(**arguments)
    return seen


def watched(pipeline: Any) -> list[str]:
    return [name for name, processor in pipeline.unet.attn_processors.items() if "Watched" in type(processor).__name__]


def test_down_and_up_blocks_are_watched_and_the_middle_is_not(pipeline: Any) -> None:
    seen = probabilities(pipeline, call(pipeline))
    assert {name.split(".")[0] for name in seen} == {"down_blocks", "up_blocks"}
    assert len(seen) == 6
    assert all(name.endswith("attn2") for name in seen)


def test_the_output_is_the_same_bits(pipeline: Any) -> None:
    arguments = call(pipeline)

    def look(name: str, attn: Any, hidden: torch.Tensor, context: torch.Tensor) -> None:
        queries(attn, hidden)

    with torch.no_grad():
        plain = pipeline.unet(**arguments).sample
        with watch_cross_attention(layers_of(pipeline), look):
            assert torch.equal(pipeline.unet(**arguments).sample, plain)
    assert not watched(pipeline)


def test_probabilities_are_those_that_the_layer_uses(pipeline: Any) -> None:
    """Probabilities times values, through the output projection, are the layer's own output."""
    outputs: dict[str, torch.Tensor] = {}
    remade: dict[str, torch.Tensor] = {}

    def note(name: str, attn: Any, hidden: torch.Tensor, context: torch.Tensor) -> None:
        chances = probabilities_of(attn, hidden, context)
        value = attn.to_v(context).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        remade[name] = attn.to_out[0]((chances @ value).transpose(1, 2).flatten(2))

    modules = dict(pipeline.unet.named_modules())
    names = list(probabilities(pipeline, call(pipeline)))
    handles = [
        modules[name].register_forward_hook(lambda module, args, out, name=name: outputs.__setitem__(name, out))
        for name in names
    ]
    with torch.no_grad(), watch_cross_attention(layers_of(pipeline), note):
        pipeline.unet(**call(pipeline))
    for handle in handles:
        handle.remove()
    for name in names:
        torch.testing.assert_close(remade[name], outputs[name], rtol=1e-5, atol=1e-5)


def test_probabilities_sum_to_one(pipeline: Any) -> None:
    for maps in probabilities(pipeline, call(pipeline)).values():
        torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:2]))


def test_without_keys_every_token_is_equal() -> None:
    pipeline = sd2_pipeline()
    for name, module in pipeline.unet.named_modules():
        if name.endswith("attn2"):
            module.to_k.weight.data.zero_()
    for maps in probabilities(pipeline, call(pipeline)).values():
        torch.testing.assert_close(maps, torch.full_like(maps, 1 / 77))


def test_permuting_the_tokens_permutes_the_maps(pipeline: Any) -> None:
    arguments, order = call(pipeline), torch.randperm(77)
    straight = probabilities(pipeline, arguments)
    arguments["encoder_hidden_states"] = arguments["encoder_hidden_states"][:, order]
    for name, maps in probabilities(pipeline, arguments).items():
        torch.testing.assert_close(maps, straight[name][..., order], rtol=1e-4, atol=1e-6)


def test_processors_are_put_back_after_an_exception(pipeline: Any) -> None:
    before = dict(pipeline.unet.attn_processors)

    def fail(*_: Any) -> None:
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"), watch_cross_attention(layers_of(pipeline), fail):
        pipeline.unet(**call(pipeline))
    assert dict(pipeline.unet.attn_processors) == before


def test_daam_agrees_with_the_loops(image: Image.Image) -> None:
    pipeline = sdxl_pipeline()
    method = Daam(load_unet(pipeline), size=16)
    maps = method.explain(image, ["tree", "sun"], prompt="a tree", seed=3)
    seen: list[tuple[torch.Tensor, torch.Tensor, Any]] = []
    with torch.no_grad():
        with watch_cross_attention(
            layers_of(pipeline), lambda name, attn, hidden, text: seen.append((hidden, text, attn))
        ):
            NoisedImage(pipeline, image, UnetOptions(size=16), 3).show("a tree,a tree, a sun")
        layers = []
        for hidden, text, attn in seen:
            slow = layer_maps_by_loops(attn.to_q.weight, attn.to_k.weight, hidden[0], text[0], attn.heads)
            layers.append((slow, 8 if len(hidden[0]) == 64 else 4))
        assert {rows for _, rows in layers} == {8, 4}
        for name, tokens in (("tree", [2, 5]), ("sun", [8])):
            slow = word_map_by_loops(layers, tokens, 8, 8)
            torch.testing.assert_close(maps[name].double(), slow, rtol=1e-5, atol=1e-7)
    assert maps.prompt == "a tree,a tree, a sun"
    assert maps.details["tokens"] == {"tree": [2, 5], "sun": [8]}


def test_half_of_the_heads_are_left_out_in_the_paper_protocol_only(image: Image.Image) -> None:
    model = load_unet(sdxl_pipeline())
    fixed, paper = (Daam(model, size=SIDE, protocol=name) for name in ("fixed", "paper"))
    assert fixed.settings["half_heads"] is False
    assert paper.settings["half_heads"] is True
    assert {fixed.settings["lookup"], paper.settings["lookup"]} == {"prompt"}
    for attn in (m for n, m in model.pipeline.unet.named_modules() if n.endswith("attn2")):
        attn.to_q.weight.data[: attn.to_q.out_features // 2] = 0  # the first half of the heads sees nothing
    whole, half = (method.explain(image, ["tree"], prompt="a tree").scores for method in (fixed, paper))
    torch.testing.assert_close(whole, half / 2 + 0.5 / 77, rtol=1e-4, atol=1e-6)


def test_the_official_lookup_of_stable_diffusion_2_misses_the_word(image: Image.Image) -> None:
    model = load_unet(sd2_pipeline())
    fixed, paper = (Daam(model, size=SIDE, protocol=name) for name in ("fixed", "paper"))
    assert paper.settings["lookup"] == "official"
    assert paper.texts(["tree", "sun"], "a tree") == ("a tree", "a treea tree, a sun")
    assert fixed.texts(["tree", "sun"], "a tree") == ("a tree,a tree, a sun",) * 2
    wrong = paper.explain(image, ["tree"], prompt="a tree")
    assert wrong.prompt == "a tree"
    shown = clip_positions(model.pipeline.tokenizer, "a tree", "tree")
    assert set(wrong.details["tokens"]["tree"]) != set(shown)


def test_samples_are_averaged(image: Image.Image) -> None:
    model = load_unet(sd2_pipeline())
    two = Daam(model, size=SIDE, samples=2, timestep=500).explain(image, ["tree"], seed=1).scores
    one = Daam(model, size=SIDE, samples=1, timestep=500).explain(image, ["tree"], seed=1).scores
    assert not torch.allclose(one, two)
    other = 2 * two - one
    assert other.min() >= 0
    assert other.max() <= 1


def test_noising_is_what_the_scheduler_does(pipeline: Any, image: Image.Image) -> None:
    noised = NoisedImage(pipeline, image, SMALL, 5)
    assert noised.timestep == {"PNDMScheduler": 21, "EulerDiscreteScheduler": 1}[type(pipeline.scheduler).__name__]
    state = noised._generator.get_state()
    made = noised.noised()
    noised._generator.set_state(state)
    noise = torch.randn(noised._clean.shape, generator=noised._generator)
    scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scheduler.set_timesteps(50)
    step = scheduler.timesteps[49]
    told = scheduler.scale_model_input(scheduler.add_noise(noised._clean, noise, step[None]), step)
    torch.testing.assert_close(made, told, rtol=1e-4, atol=1e-5)


def test_equal_seeds_give_equal_maps(pipeline: Any, image: Image.Image) -> None:
    method = Daam(load_unet(pipeline), size=SIDE)
    first, again, other = (method.explain(image, ["tree"], seed=seed).scores for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_ovam_with_the_prompt_itself_is_daam(pipeline: Any, image: Image.Image) -> None:
    model, prompt = load_unet(pipeline), "a tree and a house"
    stored = Ovam(model, size=SIDE).store(image, prompt=prompt, seed=2)
    with torch.no_grad():
        padded = pipeline.encode_prompt(
            prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )[0]
        seen: dict[str, torch.Tensor] = {}

        def note(name: str, attn: Any, hidden: torch.Tensor, context: torch.Tensor) -> None:
            seen[name] = probabilities_of(attn, hidden, context)

        with watch_cross_attention(layers_of(pipeline), note):
            NoisedImage(pipeline, image, SMALL, 2).show(prompt)
        assert len(stored.layers) == len(seen) == 6
        for layer, (name, attn) in zip(stored.layers, layers_of(pipeline).items(), strict=True):
            assert isinstance(layer, CrossLayer)
            assert torch.equal(text_probabilities(layer.query, keys(attn, padded), layer.scale), seen[name])


def test_ovam_encodes_without_padding_what_the_pipeline_encodes_with_it(pipeline: Any) -> None:
    prompt = "a tree and a house"
    with torch.no_grad():
        padded = pipeline.encode_prompt(
            prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )[0]
        own = load_unet(pipeline).encode(prompt)
    assert own.shape[1] == 7
    torch.testing.assert_close(own, padded[:, :7], rtol=1e-4, atol=1e-5)


def test_ovam_replays_any_words_without_the_unet(image: Image.Image) -> None:
    pipeline = sdxl_pipeline()
    method = Ovam(load_unet(pipeline), size=SIDE)
    stored = method.store(image, prompt="a tree")
    direct = method.explain(image, ["sun", "house"], prompt="a tree").scores
    pipeline.unet.forward = None
    replayed = method.attribute(stored, ["sun", "house"])
    assert torch.equal(replayed.scores, direct)
    assert replayed.details["attribution"] == "a sun, a house"
    whole = method.attribute(stored, ["sun"], attribution="the sun over a house")
    assert whole.scores.shape == (1, 16, 16)
    with pytest.raises(ConceptError, match=r"'tree' is not in the prompt 'a sun'"):
        method.attribute(stored, ["tree"], attribution="a sun")
    with pytest.raises(ConceptError, match=r"103 tokens; the CLIP text encoder reads 77"):
        method.attribute(stored, ["sun"], attribution="sun " * 101)


def test_ovam_sums_over_heads_layers_and_calls(image: Image.Image) -> None:
    """All tokens together sum to heads x layers x calls at every place."""
    pipeline = sd2_pipeline()
    method = Ovam(load_unet(pipeline), size=SIDE, samples=2)
    stored = method.store(image)
    assert [len(layer.part("query")) for layer in stored.layers] == [2] * 6
    modules = layers_of(pipeline).values()
    for module in modules:
        module.to_k.weight.data.zero_()
    scores = method.attribute(stored, ["sun"], attribution="a sun").scores
    heads = 2 * sum(module.heads for module in modules)
    torch.testing.assert_close(scores, torch.full((1, 16, 16), heads / 4))


def test_a_word_is_found_wherever_it_stands() -> None:
    clip, _ = tokenizers()
    assert clip_positions(clip, "a tree, a sun, a tree", "tree") == (2, 8)
    pieces = len(clip("dog", add_special_tokens=False).input_ids)
    assert pieces > 1, "the toy vocabulary must split this word"
    first = tuple(range(2, 2 + pieces))
    assert clip_positions(clip, "a dog", "dog") == first
    assert clip_positions(clip, "a dog a dog", "dog") == (*first, *(p + pieces + 1 for p in first))
    assert clip_positions(clip, "a red house", "red house") == (2, 3)
    with pytest.raises(ConceptError, match=r"'house red' is not in the prompt"):
        clip_positions(clip, "a red house", "house red")


def test_a_word_inside_another_is_found_only_without_regard_to_endings() -> None:
    clip, _ = tokenizers()
    assert clip_positions(clip, "dogs", "dog", ignore_endings=True) == (1, 2, 3)
    with pytest.raises(ConceptError, match=r"'dog' is not in the prompt 'dogs'"):
        clip_positions(clip, "dogs", "dog")


def test_a_word_behind_the_end_is_refused() -> None:
    clip, _ = tokenizers()
    assert clip_positions(clip, "sun " * 74 + "tree", "tree") == (75,)
    with pytest.raises(ConceptError, match=r"'tree' stands behind the 75 tokens .* \(token 76 of the prompt\)"):
        clip_positions(clip, "sun " * 75 + "tree", "tree")
    assert clip_positions(clip, "tree " + "sun " * 75 + "tree", "tree") == (1,)


def test_a_prompt_is_joined_as_in_the_paper() -> None:
    assert joined_prompt("a dog", ["dog", "tree"]) == "a dog,a dog, a tree"
    assert joined_prompt("", ["dog", "tree"]) == "a dog, a tree"
    assert joined_prompt("a dog", ["dog"], separator="") == "a doga dog"


def test_grids() -> None:
    assert layer_grid(96, TokenGrid(8, 12)) == TokenGrid(8, 12)
    assert layer_grid(24, TokenGrid(8, 12)) == TokenGrid(4, 6)
    assert layer_grid(12, TokenGrid(5, 7)) == TokenGrid(3, 4)
    with pytest.raises(ModelError, match="25 image tokens, which no halving of 8x12 gives"):
        layer_grid(25, TokenGrid(8, 12))


@pytest.mark.parametrize("name", ["daam", "ovam"])
def test_a_folder_opens_and_explains(name: str, tmp_path: Path, image: Image.Image) -> None:
    folder, options = METHODS_TINY_UNET[name](tmp_path)
    method = method_class(name).load(folder, device="cpu", **options)
    maps = method.explain(image, ["tree", "sun"], prompt="a tree")
    assert maps.scores.shape == (2, 16, 16)
    assert maps.scores.dtype == torch.float32
    assert maps.scores.isfinite().all()
    assert maps.recipe is None
    assert maps.model_id == method.model_id == folder
    assert maps.details["method"] == name
    assert maps.details["task"] == "read"
    assert maps.details["settings"] == method.settings
    assert maps.heatmap("sun").shape == (24, 40)
    maps.save(tmp_path / "saved")
    with pytest.raises(RecipeError, match="no option 'sice'"):
        method_class(name).load(folder, sice=3)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"size": 0}, "size must be from 8 to 4096; got 0"),
        ({"samples": 1.5}, "samples must be a whole number; got 1.5"),
        ({"timestep": -1}, "timestep must be from 0"),
        ({"timestep": "1"}, "timestep must be a whole number or None; got '1'"),
        ({"protocol": "papre"}, "protocol must be one of fixed, paper; got 'papre'"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_loaded(options: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        Daam.load("no/such-model", **options)


def test_settings_that_only_the_model_can_refuse(image: Image.Image) -> None:
    model = load_unet(sd2_pipeline())
    with pytest.raises(RecipeError, match="timestep must be below 1000"):
        Daam(model, size=SIDE, timestep=1000).explain(image, ["tree"])
    with pytest.raises(RecipeError, match="size must be a multiple of 2 for this model; got 33"):
        Daam(model, size=33).explain(image, ["tree"])


def test_models_of_other_kinds_are_refused(demo: Session, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="daam runs on a U-Net pipeline; got a Session. Open it with load"):
        method_class("daam")(demo)
    with pytest.raises(ModelError, match="this pipeline is a FluxPipeline; a U-Net with text is needed"):
        load_unet(flux_pipeline())
    with pytest.raises(ModelError, match=r"has no model_index\.json"):
        load_unet(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ModelError, match="is a FluxPipeline"):
        load_unet(tmp_path)
    with pytest.raises(ModelError, match=r"cannot load model '/nowhere/at/all'"):
        load_unet("/nowhere/at/all")
