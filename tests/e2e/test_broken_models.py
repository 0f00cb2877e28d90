"""Models that were changed, broken or emptied: the right maps, or one clear line."""

from __future__ import annotations

from dataclasses import replace
from inspect import unwrap
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXImageToVideoPipeline
from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection
from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor, FluxTransformerBlock
from PIL import Image

import conceptlens as cl
from conceptlens.features import features
from conceptlens.methods.concept_cross_attention import ConceptCrossAttention
from conceptlens.readers.cross import load_cross
from conceptlens.values.errors import one_line, shown
from conceptlens.values.words import check_prompts
from hooks import hooks_left
from tiny_cross import pixart_pipeline
from tiny_models import FAMILIES, cogvideox_pipeline, flux_pipeline, quiet, sd3_pipeline
from tiny_reentry import bria_pipeline, hidream_pipeline
from tiny_sd import sd_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")  # a black picture
CONCEPTS = ["house", "sky"]
CALL: dict[str, Any] = {"seed": 0, "num_inference_steps": 1, "height": 32, "width": 48}
NAN = r"the model gave NaN or infinity in \d+ of \d+ scores.*dtype=torch.bfloat16 or torch.float32"


@pytest.fixture
def picture() -> Image.Image:
    return Image.new("RGB", (24, 16), "red")


def spoilt(pipeline: Any, part: str) -> Any:
    with torch.no_grad():
        next(w for name, w in pipeline.components[part].named_parameters() if "to_v.weight" in name)[0, 0] = torch.nan
    return pipeline


@pytest.mark.parametrize("single_stream", [False, True])
def test_nan_is_no_map(picture: Image.Image, single_stream: bool) -> None:
    session = cl.load(spoilt(flux_pipeline(), "transformer"), single_stream=single_stream)
    with pytest.raises(cl.ModelError, match=NAN):
        session.generate("a red house", CONCEPTS, **CALL)
    record = session.read(picture)
    for options in ({}, {"softmax": False}, {"keep": True}):
        with pytest.raises(cl.ModelError, match=NAN):
            session.probe(record, CONCEPTS, **options)
    assert hooks_left(session) == []


def test_nan_of_cross_attention_and_of_a_unet(picture: Image.Image) -> None:
    pipeline = pixart_pipeline()
    with torch.no_grad():
        pipeline.transformer.transformer_blocks[0].attn2.to_q.weight[0, 0] = torch.nan
    with pytest.raises(cl.ModelError, match=NAN):
        ConceptCrossAttention(load_cross(pipeline)).explain(picture, ["house"])
    unet = sd_pipeline()
    with torch.no_grad():
        for name, weight in unet.unet.named_parameters():
            if "attn2.to_k" in name:
                weight[0, 0] = torch.nan
    with pytest.raises(cl.ModelError, match=NAN):
        cl.load(unet).generate("a red house", seed=0, num_inference_steps=1)


@pytest.mark.parametrize("single_stream", [False, True])
def test_a_full_graph_lets_nobody_look_inside(picture: Image.Image, single_stream: bool) -> None:
    pipeline = flux_pipeline()
    session = cl.load(pipeline, single_stream=single_stream)
    record = session.read(picture)
    pipeline.transformer.compile_repeated_blocks(fullgraph=True, backend="eager")
    try:
        for act in (lambda: session.generate("a red house", CONCEPTS, **CALL), lambda: session.read(picture)):
            with pytest.raises(cl.ModelError, match="compiled with fullgraph=True.* Compile it without fullgraph"):
                act()
        if single_stream:  # the blocks themselves run again
            with pytest.raises(cl.ModelError, match="compiled with fullgraph=True"):
                session.probe(record, CONCEPTS)
    finally:
        torch._dynamo.reset()
    assert hooks_left(session) == []


@pytest.fixture
def hidden_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """As caches and parallel runners leave a transformer and its blocks: forwards of *args and **kwargs."""
    for kind in (type(flux_pipeline().transformer), FluxTransformerBlock):
        monkeypatch.setattr(kind, "forward", lambda self, *a, _forward=kind.forward, **k: _forward(self, *a, **k))


@pytest.mark.parametrize("single_stream", [False, True])
def test_arguments_are_told_by_name_whatever_the_forward(
    picture: Image.Image, single_stream: bool, request: pytest.FixtureRequest
) -> None:
    session = cl.load(flux_pipeline(), single_stream=single_stream)

    def both() -> list[torch.Tensor]:
        painted = session.generate("a red house", CONCEPTS, **CALL)
        return [painted.scores, session.probe(session.read(picture), CONCEPTS).scores]

    wanted = both()
    request.getfixturevalue("hidden_arguments")
    assert all(torch.equal(found, own) for found, own in zip(both(), wanted, strict=True))


def test_arguments_without_a_name_are_one_clear_line(hidden_arguments: None) -> None:
    session = cl.load(flux_pipeline())
    kind = type(session.pipeline.transformer)
    call = kind.__call__

    def unnamed(self: Any, *args: Any, **given: Any) -> Any:
        return call(self, given.pop("hidden_states"), *args, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "__call__", unnamed)
        with pytest.raises(cl.ModelError, match="forward of FluxTransformer2DModel was replaced"):
            session.generate("a red house", CONCEPTS, **CALL)


def embeds(pipeline: Any, text: str) -> dict[str, Any]:
    made = pipeline.encode_prompt(text, text, text, do_classifier_free_guidance=False)
    return {"prompt_embeds": made[0], "pooled_prompt_embeds": made[2], "guidance_scale": 1.0}


def test_ready_made_embeddings_stand_for_a_prompt() -> None:
    pipeline = sd3_pipeline()
    session, given = cl.load(pipeline), embeds(pipeline, "a red house")
    wanted = session.generate("a red house", CONCEPTS, guidance_scale=1.0, **CALL)
    maps = session.generate(None, CONCEPTS, **given, **CALL)
    torch.testing.assert_close(maps.scores, wanted.scores, rtol=1e-5, atol=1e-6)
    assert maps.prompt == ""
    two = {n: torch.cat([v, v]) if torch.is_tensor(v) else v for n, v in given.items()}
    several: Any = session.generate(None, CONCEPTS, **two, **CALL)
    assert len(several) == 2
    with pytest.raises(cl.RecipeError, match="prompt and prompt_embeds were both given. Give prompt=None") as caught:
        session.generate("a red house", CONCEPTS, **given, **CALL)
    assert "tensor" not in str(caught.value)
    for part in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        setattr(pipeline, part, None)
    again = session.generate(None, CONCEPTS, **given, **CALL)  # the same concepts were read before
    assert torch.equal(again.scores, maps.scores)
    with pytest.raises(cl.ModelError, match="has no text_encoder, text_encoder_2.*so words cannot be read"):
        session.generate(None, ["tree", "sky"], **given, **CALL)


def test_ready_made_embeddings_of_a_model_that_is_entered_again() -> None:
    """Its concepts come through the pipeline's own call, which must be told of the concept alone."""
    pipeline = bria_pipeline()
    session = cl.load(pipeline)
    call: dict[str, Any] = {**CALL, "guidance_scale": 1.0, "max_sequence_length": 64}
    wanted = session.generate("a red house", CONCEPTS, **call)
    made = pipeline.encode_prompt("a red house", do_classifier_free_guidance=False, max_sequence_length=64)
    maps = session.generate(None, CONCEPTS, prompt_embeds=made[0], **call)
    torch.testing.assert_close(maps.scores, wanted.scores, rtol=1e-4, atol=1e-5)


def test_a_concept_is_not_the_prompt_of_another_encoder() -> None:
    session = cl.load(hidream_pipeline())
    length: dict[str, Any] = {"max_sequence_length": 64}
    own = session.embed(("house",), session.recipe(), length)
    fresh = cl.load(session.pipeline).embed(("house",), session.recipe(), {**length, "prompt_3": "a boat"})
    assert torch.equal(own.tokens, fresh.tokens)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("sd3.5-large", "sd3.5-medium", "sd3")])
def test_freed_text_encoders_are_one_clear_line(name: str, picture: Image.Image) -> None:
    pipeline = FAMILIES[name].pipeline()
    for part in [part for part in pipeline.config if part.startswith("text_encoder")]:
        setattr(pipeline, part, None)
    session = cl.load(pipeline)
    for act in (lambda: session.read(picture), lambda: session.generate("a red house", CONCEPTS, **CALL)):
        with pytest.raises(cl.ModelError, match="has no text_encoder.* so words cannot be read"):
            act()


def test_what_is_no_prompt() -> None:
    session = cl.load(flux_pipeline())
    for more in ({}, {"guide": "tsam:transformer"}):
        with pytest.raises(cl.RecipeError, match="the prompt is empty. Say what to paint"):
            session.generate(None, CONCEPTS, **more, **CALL)
    for prompt in (5, [None], [], np.zeros(3)):  # as they come from users; here a type checker stands in front
        with pytest.raises(cl.RecipeError, match="the prompt is empty. Say what to paint"):
            unwrap(check_prompts)(prompt)


def test_no_message_shows_the_numbers_of_a_tensor() -> None:
    numbers = torch.arange(12.0).view(3, 4)
    assert one_line(ValueError(f"cannot take `embeds`: {numbers}")) == "cannot take `embeds`: a tensor"
    assert shown(numbers) == "a Tensor of shape (3, 4)"
    assert shown(numbers.numpy()) == "a ndarray of shape (3, 4)"
    assert shown([numbers, numbers]) == "a list of 2 tensors or arrays"
    assert shown("x" * 100) == repr("x" * 100)[:57] + "..."
    session = cl.load(flux_pipeline())
    for name in ("temperature", "layers", "normalize", "softmax"):
        with pytest.raises(cl.RecipeError, match=r"got a Tensor of shape \(3, 4\)"):
            session.recipe(None, **{name: numbers})


def test_a_model_that_takes_more_than_a_picture(picture: Image.Image) -> None:
    plain = cogvideox_pipeline()
    config = {n: v for n, v in plain.transformer.config.items() if not n.startswith("_")}
    parts = {n: part for n, part in plain.components.items() if n != "transformer"}
    transformer = type(plain.transformer)(**{**config, "in_channels": 2 * config["in_channels"]}).eval()
    session = cl.load(quiet(CogVideoXImageToVideoPipeline(**parts, transformer=transformer)))
    says = "CogVideoXTransformer3DModel does not take a picture and a text alone: .*8 channels.* use generate"
    with pytest.raises(cl.ModelError, match=says):
        session.read(picture)
    assert hooks_left(session) == []


def test_a_reading_has_no_place_for_the_picture_of_an_ip_adapter(picture: Image.Image) -> None:
    pipeline = flux_pipeline()
    model = pipeline.transformer
    text, width = model.config.joint_attention_dim, model.config.attention_head_dim * model.config.num_attention_heads
    model.encoder_hid_proj = MultiIPAdapterImageProjection([ImageProjection(8, text, 2)])
    processor: Any = FluxIPAdapterAttnProcessor
    made = processor(hidden_size=width, cross_attention_dim=text, num_tokens=(2,), scale=[1.0])
    own = model.attn_processors
    model.set_attn_processor({n: made if n.startswith("transformer_blocks") else part for n, part in own.items()})
    with pytest.raises(cl.ModelError, match="An IP-Adapter is loaded.* call unload_ip_adapter"):
        cl.load(pipeline).read(picture)


def test_features_of_a_session_that_follows_single_streams(picture: Image.Image) -> None:
    session = cl.load(flux_pipeline(), single_stream=True)
    with pytest.raises(
        cl.ModelError, match="which cannot give vectors of concepts. Vectors of concepts need a text stream that is"
    ):
        features(session, session.read(picture), CONCEPTS)


def test_a_record_is_moved_with_its_arguments(picture: Image.Image) -> None:
    record = cl.load(flux_pipeline()).read(picture)
    layer = record.layers[0]
    apart = replace(layer.to("meta"), call=layer.call).to("meta")
    assert {tensor.device.type for tensor in apart.call.arguments.values()} == {"meta"}
