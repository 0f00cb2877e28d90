"""Methods on an ImageNet classifier and on CLIP: closed forms, finite differences, and oracles that share no code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from conceptlens.methods import _lrp_rules
from conceptlens.methods._lrp_rules import (
    add_relevance,
    linear_relevance,
    matmul_relevance,
    pixel_relevance,
    safe_divide,
)
from conceptlens.methods._relevance import ALL_TAPS, walk_back
from conceptlens.methods._vit import CLIP, IMAGENET_VIT, Opened
from conceptlens.methods._vit_view import attention, attention_gradients, record, view_of
from conceptlens.methods.gradcam import weigh_heads
from conceptlens.methods.rollout import roll_out
from conceptlens.methods.templates import TEMPLATES
from conceptlens.methods.textspan import token_contributions
from conceptlens.values.errors import ConceptError, ModelError, RecipeError
from oracles import vit as oracle
from tiny_methods import clip_folder, dino_folder, method_class, tiny_clip, tiny_vit, vit_folder
from tiny_models import tokenizers

MODELS = {"imagenet-vit": tiny_vit, "clip": tiny_clip}
SMALL: dict[str, Any] = {
    **{"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12, "num_hidden_layers": 2},
    **{"image_size": 8, "patch_size": 4},
}


def pixels(side: int = 32, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(5), dtype=dtype)


def picture(width: int = 32, height: int = 32) -> Image.Image:
    random = np.random.default_rng(3).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(random).resize((width, height), Image.Resampling.BICUBIC)


def opened(kind: str, **changes: Any) -> Opened:
    """A tiny model in float64."""
    family = {"imagenet-vit": IMAGENET_VIT, "clip": CLIP}[kind]
    model = MODELS[kind](**changes).double().requires_grad_(False)
    words = tokenizers()[0] if kind == "clip" else None
    return Opened(model, family, "tiny", family.mean, family.std, words)


@contextmanager
def double_oracle(kind: str, **changes: Any) -> Iterator[tuple[Opened, dict[str, Any]]]:
    """A model small enough for loops, with its weights for the oracle."""
    ready = opened(kind, **{**SMALL, **changes})
    read = oracle.weights_of_vit if kind == "imagenet-vit" else oracle.weights_of_clip
    yield ready, read(ready.model.state_dict(), heads=2, patch=4)


@pytest.fixture(params=MODELS, ids=str)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def eager(kind: str) -> tuple[Any, tuple[Tensor, ...], Tensor]:
    """The model's own attention probabilities, in the graph of its output."""
    model = MODELS[kind]().double()
    model.set_attn_implementation("eager")
    if kind == "clip":
        out = model.get_image_features(pixels(), output_attentions=True)
        return model, out.attentions, out.pooler_output
    out = model(pixels(), output_attentions=True)
    return model, out.attentions, out.logits


def test_attention_and_its_gradients_are_those_of_the_model(eager: tuple[Any, tuple[Tensor, ...], Tensor]) -> None:
    model, attentions, out = eager
    wanted = torch.autograd.grad(out[0, 2], attentions)
    view = view_of(model.requires_grad_(False))
    trace = record(view, pixels(), {"q", "k", "v", "context"}, grad=True)
    torch.testing.assert_close(trace.out, out, rtol=1e-6, atol=1e-7)
    made = attention_gradients(view, trace, trace.out[0, 2])
    for number in range(3):  # eager attention takes its softmax in float32 even in a float64 model
        torch.testing.assert_close(attention(view, trace, number), attentions[number], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(made[number], wanted[number], rtol=1e-5, atol=1e-6)


def test_recording_does_not_change_the_output(kind: str) -> None:
    ready = opened(kind)
    view = view_of(ready.model)
    plain = view.run(pixels())
    for grad in (False, True):
        trace = record(view, pixels(), ALL_TAPS, first=1, grad=grad)
        assert torch.equal(trace.out, plain)
        assert sorted(trace.blocks) == [1, 2]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in ready.model.modules())


def test_a_recorded_block_adds_up(kind: str) -> None:
    view = view_of(opened(kind).model)
    trace = record(view, pixels(), ALL_TAPS)
    assert trace.blocks[0].keys() == ALL_TAPS
    for seen, after in zip(list(trace.blocks.values())[:-1], list(trace.blocks.values())[1:], strict=True):
        torch.testing.assert_close(seen["x"] + seen["attended"], seen["x2"])
        torch.testing.assert_close(seen["x2"] + seen["mlp"], after["x"])
    torch.testing.assert_close(trace.tokens + view.positions, trace.embedded)


def test_vit_attention_is_the_last_row_of_the_models_own(
    kind: str, eager: tuple[Any, tuple[Tensor, ...], Tensor]
) -> None:
    _, attentions, _ = eager
    method = method_class("vit-attention")(opened(kind))
    method._pixels = lambda _: pixels()  # type: ignore[method-assign]
    made = method.explain(picture(), ["house"]).scores[0].flatten()
    torch.testing.assert_close(made, attentions[-1].mean(dim=1)[0, 0, 1:].detach().float(), rtol=1e-5, atol=1e-7)
    assert float(made.sum()) == pytest.approx(1 - attentions[-1].mean(dim=1)[0, 0, 0].item(), abs=1e-6)


def test_attention_without_queries_is_uniform(kind: str) -> None:
    ready = opened(kind)
    block = view_of(ready.model).blocks[-1]
    for layer in (block.q, block.k):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    made = method_class("vit-attention")(ready).explain(picture(), ["house"]).scores
    torch.testing.assert_close(made, torch.full((1, 4, 4), 1 / 17))


def test_rollout_of_identities_never_reaches_the_patches() -> None:
    assert torch.equal(roll_out([torch.eye(6)] * 4), torch.eye(6))


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_rollout_of_uniform_attention_halves_the_class_token_per_block(blocks: int) -> None:
    uniform = torch.full((6, 6), 1 / 6, dtype=torch.float64)
    wanted = 2.0**-blocks * torch.eye(6, dtype=torch.float64) + (1 - 2.0**-blocks) * uniform
    torch.testing.assert_close(roll_out([uniform] * blocks), wanted, rtol=1e-12, atol=1e-15)


def test_rollout_multiplies_later_blocks_from_the_left(kind: str) -> None:
    ready = opened(kind)
    method = method_class("rollout")(ready)
    made = method.explain(picture(), ["house"]).scores[0].flatten().double()
    trace = record(view_of(ready.model), method._pixels(picture()), {"q", "k"})
    first, second = ((attention(view_of(ready.model), trace, n)[0].mean(0) + torch.eye(17)) / 2 for n in (1, 2))
    torch.testing.assert_close(made, (second @ first)[0, 1:], rtol=1e-5, atol=1e-8)
    assert not torch.allclose(made, (first @ second)[0, 1:], rtol=1e-3)


def test_gradients_agree_with_finite_differences(kind: str) -> None:
    ready = opened(kind)
    view, model = view_of(ready.model), ready.model
    trace = record(view, pixels(), {"q", "k", "v", "context"}, first=2, grad=True)
    gradient = attention_gradients(view, trace, trace.out[0, 1])[2]
    towards = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    v = trace.blocks[2]["v"].unflatten(-1, (4, 8)).transpose(1, 2)
    moved = (towards @ v).transpose(1, 2).flatten(2)
    values = []
    for step in (1e-5, -1e-5):
        hook = view.blocks[2].o.register_forward_pre_hook(lambda _, given, step=step: (given[0] + step * moved,))
        values.append(float(view.run(pixels())[0, 1]))
        hook.remove()
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(float((gradient * towards).sum()), rel=1e-6)
    assert not model.training


def test_gradcam_does_not_mind_the_order_of_heads_and_is_in_the_unit_range() -> None:
    a, gradient = torch.rand(4, 9), torch.randn(4, 9)
    made = weigh_heads(a, gradient)
    torch.testing.assert_close(made, weigh_heads(a[[2, 0, 3, 1]], gradient[[2, 0, 3, 1]]))
    assert (made.min(), made.max()) == (0, 1)
    assert torch.equal(weigh_heads(a, -gradient.abs()), torch.zeros(9))


def test_gradcam_weighs_heads_as_its_equation_says(kind: str, eager: tuple[Any, tuple[Tensor, ...], Tensor]) -> None:
    _, attentions, out = eager
    method = method_class("gradcam")(opened(kind))
    method._pixels = lambda _: pixels()  # type: ignore[method-assign]
    made = method.explain(picture(), ["house", "tree"]).scores
    if kind == "clip":
        texts = [method._text(name) for name in ("house", "tree")]
        scores = [(out[0] / out.norm()) @ text for text in texts]
    else:
        scores = [out[0].max()] * 2
    for one, score in zip(made, scores, strict=True):
        gradient = torch.autograd.grad(score, attentions[-1], retain_graph=True)[0]
        raw = torch.zeros(16, dtype=torch.float64)
        for head in range(4):
            raw += gradient[0, head, 0, 1:].mean() * attentions[-1][0, head, 0, 1:].detach() / 4
        raw = raw.clamp(min=0)
        wanted = (raw - raw.min()) / (raw.max() - raw.min()) if raw.max() > raw.min() else raw
        torch.testing.assert_close(one.flatten(), wanted.float(), rtol=1e-4, atol=1e-5)


def test_safe_divide() -> None:
    made = safe_divide(torch.tensor([1.0, 1.0, 2.0]), torch.tensor([0.0, 0.5, -4.0]))
    torch.testing.assert_close(made, torch.tensor([0.0, 2.0, -0.5]))
    assert safe_divide(torch.ones(1), torch.tensor([-1e-9])).isfinite().all()


def test_a_linear_layer_conserves_relevance_with_ours_and_doubles_it_with_orig(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_lrp_rules, "EPSILON", 1e-13)
    x, weight, r = (torch.randn(*shape, dtype=torch.float64) for shape in ((3, 20), (4, 20), (3, 4)))
    assert float(linear_relevance(r, x, weight, True).sum() / r.sum()) == pytest.approx(1, abs=1e-8)
    assert float(linear_relevance(r, x, weight, False).sum() / r.sum()) == pytest.approx(2, abs=1e-8)


def test_one_fused_layer_and_three_separate_ones_agree() -> None:
    x, weights = torch.randn(3, 6), [torch.randn(4, 6) for _ in range(3)]
    parts = [torch.randn(3, 4) for _ in range(3)]
    for joint in (True, False):
        apart = sum(linear_relevance(r, x, w, joint) for r, w in zip(parts, weights, strict=True))
        fused = linear_relevance(torch.cat(parts, dim=1), x, torch.cat(weights), joint)
        torch.testing.assert_close(fused, apart)


def test_a_product_gives_half_to_each_factor() -> None:
    a, b, r = (torch.randn(*shape, dtype=torch.float64) for shape in ((2, 3, 4), (2, 4, 5), (2, 3, 5)))
    for part in matmul_relevance(r, a, b):
        assert float(part.sum()) == pytest.approx(float(r.sum()) / 2, abs=1e-6)


def test_a_sum_is_shared_by_the_size_of_its_parts() -> None:
    a, b = torch.rand(1, 3, 4, dtype=torch.float64), 3 * torch.rand(1, 3, 4, dtype=torch.float64)
    r = torch.rand(1, 3, 4, dtype=torch.float64)
    plain, joint = (add_relevance(r, a, b, flag) for flag in (False, True))
    torch.testing.assert_close(plain[0] + plain[1], r)
    assert float(joint[0].sum() + joint[1].sum()) == pytest.approx(float(r.sum()), abs=1e-7)
    ratio = float(plain[0].sum() / plain[1].sum())
    assert float(joint[0].sum() / joint[1].sum()) == pytest.approx(ratio, abs=1e-7)


def test_pixels_take_all_relevance_of_the_patches() -> None:
    conv = nn.Conv2d(3, 5, 4, stride=4).double().requires_grad_(False)
    r = torch.randn(1, 5, 2, 2, dtype=torch.float64)
    assert float(pixel_relevance(r, pixels(8), conv).sum()) == pytest.approx(float(r.sum()), abs=1e-7)


@pytest.mark.parametrize(("epsilon", "bar"), [(1e-9, 1e-7), (1e-12, 1e-8)])
def test_ours_conserves_relevance_through_all_blocks(
    kind: str, epsilon: float, bar: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lrp_rules, "EPSILON", epsilon)
    view = view_of(opened(kind).model)
    trace = record(view, pixels(), ALL_TAPS)
    start = torch.nn.functional.one_hot(trace.out.argmax(dim=-1), trace.out.shape[-1]).double()
    made = walk_back(view, trace, start, joint=True, pixels=True)
    assert sorted(made.inputs) == [0, 1, 2]
    for number in range(3):
        assert float(made.inputs[number].sum()) == pytest.approx(1, abs=bar)
        assert float(made.attention[number].sum()) == pytest.approx(float(made.branches[number]) / 2, abs=bar)


def test_orig_does_not_conserve_relevance(kind: str) -> None:
    view = view_of(opened(kind).model)
    trace = record(view, pixels(), ALL_TAPS)
    start = torch.nn.functional.one_hot(trace.out.argmax(dim=-1), trace.out.shape[-1]).double()
    made = walk_back(view, trace, start, joint=False, pixels=True)
    assert abs(float(made.inputs[0].sum()) - 1) > 1


@pytest.mark.parametrize("rules", ["orig", "ours"])
def test_relevance_agrees_with_the_loops(kind: str, rules: str) -> None:
    with double_oracle(kind) as (ready, weights):
        view = view_of(ready.model)
        trace = record(view, pixels(8), ALL_TAPS)
        seen = oracle.forward(weights, pixels(8)[0])
        torch.testing.assert_close(trace.out[0], seen["out"].detach(), rtol=1e-9, atol=1e-9)
        start = torch.zeros_like(trace.out)
        start[0, 1] = 1
        made = walk_back(view, trace, start, joint=rules == "ours", pixels=True)
        slow = oracle.relevance(weights, seen, start[0], rules == "ours")
        for number in range(2):
            torch.testing.assert_close(made.attention[number][0], slow["A"][number], rtol=1e-5, atol=1e-7)
        assert made.pixels is not None
        torch.testing.assert_close(made.pixels[0], slow["pixels"], rtol=1e-5, atol=1e-7)


def test_maps_of_relevance_agree_with_the_loops(kind: str) -> None:
    """The whole of LRP, partial LRP and TransInterp, text direction included."""
    with double_oracle(kind) as (ready, weights):
        seen = oracle.forward(weights, pixels(8)[0])
        out = seen["out"]
        for name, rules in (("lrp", "orig"), ("partial-lrp", "orig"), ("transinterp", "ours")):
            method = method_class(name)(ready, **({"start_layer": 0} if name == "transinterp" else {}))
            assert method.settings["rules"] == rules
            method._pixels = lambda _: pixels(8)  # type: ignore[method-assign]
            made = method.explain(picture(), ["house"]).scores[0]
            if kind == "clip":
                text = method._text("house")
                one = torch.ones(1, 1, dtype=torch.float64)
                start = oracle.linear(one, out.detach()[None], text[None], rules == "ours")[0]
                score = (out / out.norm()) @ text
            else:
                start, score = torch.nn.functional.one_hot(out.argmax(), len(out)).double(), out.max()
            slow = oracle.relevance(weights, seen, start, rules == "ours")
            wanted = {
                "lrp": lambda slow=slow: slow["pixels"].sum(dim=0),
                "partial-lrp": lambda slow=slow: slow["A"][-1].clamp(min=0).mean(dim=0)[0, 1:].reshape(2, 2),
                "transinterp": lambda slow=slow, score=score: oracle.transinterp(
                    weights, seen, score, slow["A"], 0
                ).reshape(2, 2),
            }[name]()
            torch.testing.assert_close(made, wanted.detach().float(), rtol=1e-5, atol=1e-6 * float(wanted.abs().max()))


def test_transinterp_of_one_block_is_its_gradient_times_relevance() -> None:
    ready = opened("imagenet-vit", num_hidden_layers=1)
    method = method_class("transinterp")(ready, start_layer=0)
    made = method.explain(picture(), ["house"]).scores[0].flatten().double()
    view = view_of(ready.model)
    trace = record(view, method._pixels(picture()), ALL_TAPS, grad=True)
    gradient = attention_gradients(view, trace, trace.out[0].max())[0]
    r = walk_back(view, trace, torch.nn.functional.one_hot(trace.out.argmax(-1), 5).double(), joint=True).attention[0]
    torch.testing.assert_close(made, (gradient * r).clamp(min=0).mean(dim=1)[0, 0, 1:].detach(), rtol=1e-5, atol=1e-7)


def test_transinterp_without_gradients_is_zero() -> None:
    ready = opened("imagenet-vit")
    nn.init.zeros_(ready.model.classifier.weight)
    assert torch.equal(method_class("transinterp")(ready).explain(picture(), ["house"]).scores, torch.zeros(1, 4, 4))


def test_the_mm_variant_weighs_attention_by_its_gradient(
    kind: str, eager: tuple[Any, tuple[Tensor, ...], Tensor]
) -> None:
    _, attentions, out = eager
    for first in (None, 1):
        method = method_class("transinterp")(opened(kind), variant="mm", start_layer=first)
        assert method.settings["start_layer"] == (2 if first is None else 1)
        method._pixels = lambda _: pixels()  # type: ignore[method-assign]
        made = method.explain(picture(), ["house"]).scores[0].flatten()
        score = (out[0] / out.norm()) @ method._text("house") if kind == "clip" else out[0].max()
        joint = torch.eye(17, dtype=torch.float64)
        for a in attentions[2 if first is None else 1 :]:
            gradient = torch.autograd.grad(score, a, retain_graph=True)[0]
            joint = joint + (gradient * a.detach())[0].clamp(min=0).mean(dim=0) @ joint
        torch.testing.assert_close(made, joint[0, 1:].float(), rtol=1e-4, atol=1e-6)


def test_token_contributions_agree_with_the_loops_and_add_up_to_the_embedding() -> None:
    with double_oracle("clip") as (ready, weights):
        view = view_of(ready.model)
        trace = record(view, pixels(8), ALL_TAPS)
        made = token_contributions(view, trace)
        tokens, rest = oracle.contributions(weights, oracle.forward(weights, pixels(8)[0]))
        torch.testing.assert_close(made, torch.stack(tokens).detach(), rtol=1e-5, atol=1e-9)
        whole = made.sum(dim=0) + torch.stack(rest).sum(dim=0).detach()
        torch.testing.assert_close(whole, trace.out[0] / trace.out.norm(), rtol=1e-9, atol=1e-10)


def test_textspan_maps_are_contributions_along_the_text() -> None:
    ready = opened("clip")
    method = method_class("textspan")(ready)
    maps = method.explain(picture(), ["house", "tree"])
    trace = record(view_of(ready.model), method._pixels(picture()), ALL_TAPS)
    along = token_contributions(view_of(ready.model), trace)[1:] @ method._text("tree")
    torch.testing.assert_close(maps["tree"].flatten(), along.float())


def test_texts_are_unit_means_over_the_templates() -> None:
    ready = opened("clip")
    words: Any = ready.tokenizer
    model = ready.model
    single, ensemble = (method_class("gradcam")(ready, templates=kind)._text("house") for kind in TEMPLATES)
    wanted = model.get_text_features(**words(["a photo of a house."], return_tensors="pt")).pooler_output[0]
    torch.testing.assert_close(single, wanted / wanted.norm())
    each = [
        model.get_text_features(**words([t.format("house")], return_tensors="pt")).pooler_output[0]
        for t in TEMPLATES["ensemble"]
    ]
    mean = torch.stack([e / e.norm() for e in each]).mean(dim=0)
    torch.testing.assert_close(ensemble, mean / mean.norm())
    assert len(set(TEMPLATES["ensemble"])) == 80


def test_what_explains_a_class_follows_the_text_on_clip() -> None:
    on_vit, on_clip = (method_class("gradcam")(opened(kind)) for kind in MODELS)
    assert (on_vit.info.class_conditioned, on_vit.info.text_conditioned) == (True, False)
    assert (on_clip.info.class_conditioned, on_clip.info.text_conditioned) == (False, True)
    assert "templates" not in on_vit.settings
    assert on_clip.settings["templates"] == "single"


def test_a_wide_picture_is_squeezed_into_the_square_and_its_map_comes_back_wide(tmp_path: Path) -> None:
    method = method_class("lrp").load(vit_folder(tmp_path)[0], device="cpu")
    maps = method.explain(picture(90, 40), ["house"])
    assert maps.scores.shape == (1, 32, 32)
    assert maps.pixels().shape == (1, 40, 90)
    assert maps.scores.min() < 0 < maps.scores.max()


@pytest.mark.parametrize("name", ["lrp", "partial-lrp", "transinterp"])
def test_relevance_can_be_had_in_float64(name: str, kind: str) -> None:
    family, plain = opened(kind).family, MODELS[kind]().requires_grad_(False)
    words = tokenizers()[0] if kind == "clip" else None
    single = Opened(plain, family, "tiny", family.mean, family.std, words)
    rough = method_class(name)(single).explain(picture(), ["house"]).scores
    double = method_class(name)(single, dtype="float64")
    assert double._view.first_token.dtype == torch.float64
    fine = double.explain(picture(), ["house"]).scores
    exact = method_class(name)(opened(kind)).explain(picture(), ["house"]).scores
    assert fine.dtype == torch.float32
    torch.testing.assert_close(fine, exact, rtol=0, atol=1e-5 * float(exact.abs().max()))
    assert (rough - exact).abs().max() >= (fine - exact).abs().max()


def test_input_norm(tmp_path: Path) -> None:
    folder, _ = vit_folder(tmp_path)
    correct, reference = (
        method_class("vit-attention").load(folder, device="cpu", input_norm=norm)._pixels(picture())
        for norm in ("correct", "reference")
    )
    torch.testing.assert_close(correct, 2 * reference - 1)
    assert 0 <= reference.min() < reference.max() <= 1
    (Path(folder) / "preprocessor_config.json").write_text('{"image_mean": [0, 0.5, 1], "image_std": [1, 2, 4]}')
    own = method_class("vit-attention").load(folder, device="cpu")._pixels(picture())
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0, 0.5, 1], [1, 2, 4]))
    torch.testing.assert_close(own, (reference - mean) / std)


def test_backbones(tmp_path: Path) -> None:
    clip, vit = clip_folder(tmp_path)[0], vit_folder(tmp_path)[0]
    assert method_class("lrp").load(clip, device="cpu").settings["backbone"] == "clip"
    assert method_class("lrp").load(vit, device="cpu", backbone="imagenet-vit").settings["backbone"] == "imagenet-vit"
    with pytest.raises(ModelError, match="type vit; needed: CLIPModel"):
        method_class("lrp").load(vit, device="cpu", backbone="clip")
    with pytest.raises(ModelError, match="type vit; needed: CLIPModel"):
        method_class("textspan").load(vit, device="cpu")
    with pytest.raises(RecipeError, match="no backbone 'resnet'"):
        method_class("lrp").load(vit, device="cpu", backbone="resnet")
    with pytest.raises(ModelError, match=r"the weights have no classifier\.bias for ViTForImageClassification"):
        method_class("lrp").load(dino_folder(tmp_path)[0], device="cpu")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("lrp", {"rules": "theirs"}, "rules must be one of orig, ours; got 'theirs'"),
        ("rollout", {"start_layer": 3}, r"start_layer must be 0\.\.2 for a model of 3 blocks; got 3"),
        ("transinterp", {"start_layer": -1}, r"start_layer must be 0\.\.2"),
        ("transinterp", {"variant": "mn"}, "variant must be one of lrp, mm"),
        ("gradcam", {"input_norm": "none"}, "input_norm must be one of correct, reference"),
        ("vit-attention", {"rules": "orig"}, "vit-attention has no setting 'rules'"),
    ],
)
def test_impossible_settings(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        method_class(name)(opened("imagenet-vit"), **options)


def test_a_method_on_a_model_of_its_own_refuses_another() -> None:
    with pytest.raises(ModelError, match=r"gradcam reads a vision model, not str\. Open it with method_named"):
        method_class("gradcam")("demo")  # type: ignore[arg-type]


def test_a_concept_that_is_too_long_says_so() -> None:
    method = method_class("gradcam")(opened("clip"))
    with pytest.raises(ConceptError, match=r"tokens with its template; tiny takes 77\. Shorten it"):
        method.explain(picture(), ["house " * 90])
