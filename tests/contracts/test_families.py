"""What is special about a family, beyond the contract."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from PIL import Image
from test_adapters import COLS, ROWS, adapter_for, run, session_of

import conceptlens as cl
from conceptlens.readers.selfcheck import own_text_errors
from conceptlens.values.recipe import Recipe
from specimens.families import (
    LENGTH,
    cogvideox_call,
    cogvideox_transformer,
    flux2_transformer,
    qwen_transformer,
)
from tiny_models import (
    FAMILIES,
    cogvideox_pipeline,
    flux2_dev_pipeline,
    flux2_klein_pipeline,
    hunyuan_video15_pipeline,
    qwen_pipeline,
)

CHATS = {"klein": flux2_klein_pipeline, "dev": flux2_dev_pipeline, "qwen": qwen_pipeline}
OPTIONS = {"max_sequence_length": LENGTH}


def embedded(pipeline: Any, names: tuple[str, ...], **recipe: Any) -> Any:
    with torch.no_grad():
        return adapter_for(pipeline.transformer).embed(pipeline, names, Recipe(**recipe), OPTIONS)


@pytest.mark.parametrize("name", CHATS)
def test_a_concept_is_its_own_words_of_the_chat_template(name: str) -> None:
    """Token and position are those of the words in the text that the model would read as a prompt."""
    pipeline = CHATS[name]()
    found = embedded(pipeline, ("house", "red boat"), pooling="last")
    assert found.pieces == (("house",), ("red", "boat"))
    with torch.no_grad():
        states = pipeline.encode_prompt("red boat", **OPTIONS)[0][0]
    assert torch.equal(found.tokens[1], states[found.positions[1]])
    first = embedded(pipeline, ("red boat",), pooling="first")
    assert torch.equal(first.tokens[0], states[found.positions[1] - 1])
    with pytest.raises(cl.ConceptError, match=f"does not fit in {LENGTH} tokens"):
        embedded(pipeline, ("house " * (LENGTH + 1),))
    with pytest.raises(cl.ConceptError, match="has no token that the model's tokenizer knows"):
        embedded(pipeline, ("zeppelin",))


def test_the_position_of_a_concept_matters_where_text_is_rotated() -> None:
    session = session_of(flux2_klein_pipeline())
    adapter = adapter_for(session.pipeline.transformer)
    near = embedded(session.pipeline, ("house", "sky"))
    assert near.positions is not None
    call = FAMILIES["flux2-klein"].call(1, ROWS, COLS)
    seen: list[torch.Tensor] = []
    run(adapter, call, lambda block, record: seen.append(adapter.begin(near, record.call)[1][1]))
    ids = torch.zeros(2, 4)
    ids[:, 3] = torch.tensor(near.positions)
    assert torch.equal(seen[0], adapter.transformer.pos_embed(ids)[0])


def test_the_presets_of_the_official_code() -> None:
    flux2 = session_of(flux2_klein_pipeline()).recipe("paper")
    assert (flux2.layers, flux2.temperature, flux2.pooling) == ((1, 2, 3), 1000.0, "last")
    video = session_of(cogvideox_pipeline())
    recipe = video.recipe("paper")
    assert (recipe.layers, recipe.softmax, recipe.padding) == ((0, 1, 2, 3), False, True)
    filled = embedded(video.pipeline, ("house", "sky"), pooling="first", padding=True)
    assert filled.tokens.shape[0] == LENGTH == filled.extra + 2
    assert not filled.tokens[: filled.extra].any()
    maps = video.generate("a red house", ["house", "sky"], seed=0, preset="paper", num_inference_steps=2, num_frames=1)
    plain = video.generate(
        "a red house", ["house", "sky"], seed=0, preset="paper", padding=False, num_inference_steps=2, num_frames=1
    )
    assert maps.scores.shape == plain.scores.shape == (2, 1, ROWS, COLS)
    assert not torch.allclose(maps.scores, plain.scores)
    with pytest.raises(cl.RecipeError, match="no preset 'paper' for Qwen-Image"):
        session_of(qwen_pipeline()).recipe("paper")


def test_reference_images_follow_the_painted_one() -> None:
    """FLUX.2 appends reference images to the sequence; maps are of the painted image alone."""
    adapter = adapter_for(flux2_transformer())
    call = FAMILIES["flux2-klein"].call(1, ROWS, COLS)
    other = call["img_ids"].clone()
    other[..., 0] = 10
    call["img_ids"] = torch.cat([call["img_ids"], other[:, :6]], dim=1)
    call["hidden_states"] = torch.cat([call["hidden_states"], call["hidden_states"][:, :6]], dim=1)
    grids = []
    run(adapter, call, lambda block, record: grids.append((record.call.grid, record.key.shape[2])))
    assert grids[0][0].tokens == ROWS * COLS
    assert grids[0][1] == ROWS * COLS + 6


def test_what_a_family_cannot_do_is_said() -> None:
    call = FAMILIES["flux2-klein"].call(1, ROWS, COLS)
    with pytest.raises(cl.ModelError, match="caches the keys of its reference images"):
        run(adapter_for(flux2_transformer()), {**call, "kv_cache_mode": "extract"}, lambda block, record: None)
    layered = qwen_transformer()
    layered.register_to_config(use_layer3d_rope=True)
    with pytest.raises(cl.ModelError, match="several layers at once"):
        run(adapter_for(layered), FAMILIES["qwen-image"].call(1, ROWS, COLS), lambda block, record: None)


def test_guidance_by_a_guider_reads_the_prompts_own_call() -> None:
    """HunyuanVideo 1.5 has a guider in place of a scale; it labels its two calls."""
    session = session_of(hunyuan_video15_pipeline())
    found = []
    for scale in (4.0, 1.0):
        session.pipeline.guider = ClassifierFreeGuidance(guidance_scale=scale)
        found.append(
            session.generate("a red house", ["house", "sky"], seed=0, steps=(0,), num_inference_steps=2, num_frames=1)
        )
    assert found[0].details["steps"] == 2
    torch.testing.assert_close(found[0].scores, found[1].scores, rtol=1e-4, atol=1e-6)


def test_cogvideox_puts_a_concept_where_its_text_begins() -> None:
    for padding in (False, True):
        found = embedded(cogvideox_pipeline(), ("a red house", "sky"), padding=padding)
        assert len(found.pieces[0]) > 1
        assert found.positions == (0,) * len(found.tokens)


def test_cogvideox_15_joins_two_latent_frames_and_takes_an_offset() -> None:
    """Its patches are two latent frames deep, and its picture-to-video form has one more embedding."""
    config = {"use_rotary_positional_embeddings": True, "patch_size_t": 2, "patch_bias": False, "ofs_embed_dim": 12}
    transformer = cogvideox_transformer(**config).double()
    call = {k: v.double() if v.is_floating_point() else v for k, v in cogvideox_call(1, ROWS, COLS).items()}
    rotation = get_3d_rotary_pos_embed(32, None, (ROWS, COLS), 1, grid_type="slice", max_size=(ROWS, COLS))
    call |= {"ofs": torch.full((1,), 2.0, dtype=torch.float64), "image_rotary_emb": rotation}
    assert max(own_text_errors(adapter_for(transformer), call)) < 1e-10
    records: list[Any] = []
    run(adapter_for(transformer), call, lambda block, record: records.append(record))
    assert (records[0].call.grid.frames, records[0].call.grid.tokens) == (1, ROWS * COLS)


def test_a_picture_is_read_by_a_video_model() -> None:
    session = session_of(cogvideox_pipeline())
    record = session.read(Image.new("RGB", (96, 64), "red"), noise=0.3)
    assert record.grid.frames == 1
    maps = session.probe(record, ["house", "sky"], keep=True)
    assert isinstance(maps, cl.ConceptMaps)
    assert maps.scores.shape == (2, record.grid.rows, record.grid.cols)
    assert maps.parts is not None
    assert maps.parts.shape[-3:] == maps.scores.shape
