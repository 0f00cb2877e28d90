"""What single families need so that their cross attention is read as they would paint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import PiflowScheduler
from diffusers.models.transformers import transformer_cosmos
from diffusers.pipelines.skyreels_v2 import pipeline_skyreels_v2
from test_methods import picture
from torch import Tensor

from conceptlens.families.cross import cross_layouts
from conceptlens.families.kinds.cross_attention import with_latents
from conceptlens.methods.concept_cross_attention import ConceptCrossAttention
from conceptlens.readers.cross import load_cross
from conceptlens.values.errors import LibraryError
from tiny_cross import PIPELINES
from tiny_cross_painting import PAINTED, painted, without_some_packages


@pytest.fixture(autouse=True, scope="module")
def packages() -> Iterator[None]:
    with without_some_packages():
        yield


def test_the_sound_of_a_video_model_is_not_heard() -> None:
    """Its part of the call is noise whatever the noise level is, so it must not move the image queries."""
    loaded = load_cross(PIPELINES["ltx-2"]())
    loaded.defaults.generate.update(width=128, height=128)  # type: ignore[attr-defined]
    queries = []
    for other in (0.0, 3.0):

        def louder(module: Any, args: Any, kwargs: dict[str, Any], other: float = other) -> Any:
            return args, {**kwargs, "audio_hidden_states": kwargs["audio_hidden_states"] + other}

        handle = loaded.pipeline.transformer.register_forward_pre_hook(louder, with_kwargs=True)
        recipe = loaded.recipe(None, {"noise": 0.4, "layers": (2,)})
        queries.append(loaded.read(picture(), "", recipe, 0, {}).layers[0].part("query"))
        handle.remove()
    assert queries[0].equal(queries[1])


def test_a_photo_is_the_clip_in_which_nothing_moves() -> None:
    """Allegro's autoencoder takes tiles of 24 frames; the photo is the frame in the middle of a still."""
    made = PIPELINES["allegro"]()
    made.vae.enable_tiling()
    made.vae.kernel, made.vae.stride = (24, 64, 64), (16, 48, 48)
    pixels = made.video_processor.preprocess(picture(64, 64))
    with torch.no_grad():
        clip = made.vae.encode(pixels[:, :, None].expand(-1, -1, 24, -1, -1)).latent_dist.mode()
        photo = cross_layouts()["AllegroTransformer3DModel"].clean_latents(made.vae, pixels)
    assert photo.shape == (1, 4, 1, 32, 32)
    assert torch.allclose(photo, clip[:, :, 3:4] * made.vae.config.scaling_factor, atol=1e-5)


@pytest.mark.parametrize("name", ["kandinsky-5-image", "lumina-next"])
def test_a_photo_becomes_what_the_pipeline_would_decode(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_cross(PIPELINES[name]())
    pipeline, layout, decoded = loaded.pipeline, loaded.layout, []
    pixels = pipeline.image_processor.preprocess(picture(*PAINTED[name]))
    with torch.no_grad():
        mode, clean = pipeline.vae.encode(pixels).latent_dist.mode(), layout.clean_latents(pipeline.vae, pixels)

    def photo(pipeline: Any, step: int, timestep: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": with_latents(pipeline, layout, {"hidden_states": given["latents"]}, clean)["hidden_states"]}

    decode = pipeline.vae.decode
    monkeypatch.setattr(
        pipeline.vae, "decode", lambda latents, **more: decoded.append(latents) or decode(latents, **more)
    )
    painted(loaded, name, callback_on_step_end=photo, output_type="pt")
    assert torch.allclose(decoded[0], mode, atol=1e-5)


def test_a_distilled_flow_model_is_read_like_its_teacher() -> None:
    teacher, student = (load_cross(PIPELINES["kandinsky-6"]()) for _ in range(2))
    student.pipeline.scheduler = PiflowScheduler()
    queries = []
    for loaded in (teacher, student):
        loaded.defaults.generate.update(width=64, height=64)  # type: ignore[attr-defined]
        recipe = loaded.recipe(None, {"noise": 0.4, "layers": (2,)})
        queries.append(loaded.read(picture(), "", recipe, 0, {}).layers[0].part("query"))
    assert torch.allclose(queries[0], queries[1], atol=1e-4)


def test_a_missing_package_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(pipeline_skyreels_v2, "ftfy")
    monkeypatch.delattr(transformer_cosmos, "transforms")
    for name, package in (("sky-reels", "ftfy"), ("cosmos", "torchvision")):
        loaded = load_cross(PIPELINES[name]())
        width, height = PAINTED[name]
        loaded.defaults.generate.update(width=width, height=height)  # type: ignore[attr-defined]
        method = ConceptCrossAttention(loaded)
        with pytest.raises(LibraryError, match=f"Pipeline needs the package '{package}'.*pip install {package}"):
            method.explain(picture(), ["house"])
