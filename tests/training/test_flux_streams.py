"""The forward that training uses is diffusers' own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from einops import rearrange

from film_model import LATENT, FilmModel, grow, grow_vae
from film_model import build_pipeline as film_pipeline
from flux_streams import GRID, Streams
from picture_model import ASSETS, PictureModel
from sd3_model import SD3Model, build_pipeline
from text import LENGTH

VAE = ASSETS / "demo" / "vae"


@torch.no_grad()
def test_velocity_equals_diffusers() -> None:
    torch.manual_seed(0)
    model = PictureModel(heads=1, double=2, single=1).transformer.eval()
    noisy, text, pooled = torch.randn(2, GRID**2, 16), torch.randn(2, LENGTH, 96), torch.randn(2, 64)
    moment = torch.tensor([0.2, 0.7])
    velocity, states, _ = Streams(model)(noisy, moment, text, pooled)
    rows, cols = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    expected = model(
        hidden_states=noisy,
        timestep=moment,
        encoder_hidden_states=text,
        pooled_projections=pooled,
        img_ids=torch.stack([torch.zeros(GRID, GRID), rows, cols], -1).flatten(0, 1),
        txt_ids=torch.zeros(LENGTH, 3),
    ).sample
    torch.testing.assert_close(velocity, expected, atol=1e-5, rtol=1e-4)
    assert states.shape == (2, LENGTH, 32)


@torch.no_grad()
def test_velocity_of_stable_diffusion_3_equals_diffusers() -> None:
    torch.manual_seed(0)
    model = SD3Model(heads=1, blocks=4).eval()
    t5_ids, clip_ids = model.tokens(["a red house and a boat", ""])
    text, pooled = model.encode(clip_ids, t5_ids)
    latents, moment = torch.randn(2, 4, 2 * GRID, 2 * GRID), torch.tensor([0.2, 0.7])
    packed = rearrange(latents, "b c (rows p) (cols q) -> b (rows cols) (c p q)", p=2, q=2)
    velocity, states = model.velocity(packed, moment, text, pooled)
    expected = model.transformer(latents, text, pooled, moment * 1000).sample
    expected = rearrange(expected, "b c (rows p) (cols q) -> b (rows cols) (c p q)", p=2, q=2)
    torch.testing.assert_close(velocity, expected, atol=1e-5, rtol=1e-4)
    assert states.shape == (2, 2 * LENGTH, 32)


@torch.no_grad()
def test_text_of_stable_diffusion_3_is_that_of_the_pipeline() -> None:
    torch.manual_seed(0)
    model = SD3Model(heads=1, blocks=2).eval()
    pipeline = build_pipeline(model, ASSETS / "demo" / "vae")
    caption = "a red house, a boat"
    text, pooled = model.encode(*reversed(model.tokens([caption])))
    rows, _, vector, _ = pipeline.encode_prompt(
        caption, caption, caption, do_classifier_free_guidance=False, max_sequence_length=LENGTH
    )
    torch.testing.assert_close(text, rows)
    torch.testing.assert_close(pooled, vector)
    t5_ids, clip_ids = model.tokens([caption])
    assert torch.equal(model.clip_ids(t5_ids), clip_ids)


@pytest.fixture(scope="module")
def films() -> FilmModel:
    torch.manual_seed(0)
    model = FilmModel(heads=1, double=2, single=1).eval()
    blocks: Any = model.transformer.context_embedder.token_refiner.refiner_blocks
    for refiner in blocks:
        torch.nn.init.normal_(refiner.norm_out.linear.weight)
    return model


CAPTIONS = ["a red ball rolls left on the grass, the sea", ""]


@torch.no_grad()
def test_velocity_of_films_equals_diffusers(films: FilmModel) -> None:
    t5_ids, _ = films.tokens(CAPTIONS)
    noisy, pooled, moment = torch.randn(2, *LATENT), torch.randn(2, 64), torch.tensor([0.2, 0.7])
    velocity, states = films.velocity(noisy, moment, t5_ids, pooled)
    expected = films.transformer(noisy, moment * 1000, films.encode(t5_ids), (t5_ids > 0).long(), pooled).sample
    torch.testing.assert_close(velocity, expected, atol=1e-5, rtol=1e-4)
    assert states.shape == (2, LENGTH, 32)


@torch.no_grad()
def test_text_of_films_is_that_of_the_pipeline(films: FilmModel) -> None:
    pipeline: Any = film_pipeline(films, VAE)
    t5_ids, _ = films.tokens(CAPTIONS[:1])
    states, _, mask = pipeline.encode_prompt(CAPTIONS[0].capitalize(), max_sequence_length=LENGTH)
    assert torch.equal(mask.bool(), t5_ids > 0)
    torch.testing.assert_close(films.encode(t5_ids)[t5_ids > 0], states[mask.bool()])


@torch.no_grad()
def test_a_grown_model_does_to_one_frame_what_the_picture_model_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    old = PictureModel(heads=1, double=2, single=1).eval()
    old.transformer.save_pretrained(tmp_path / "transformer")
    old.clip.save_pretrained(tmp_path / "text_encoder")
    new = FilmModel(heads=1, double=2, single=1).eval()
    grow(new, tmp_path)
    text, pooled, moment = torch.randn(2, LENGTH, 32), torch.randn(2, 64), torch.tensor([0.2, 0.7])
    for model in (new, old):
        model.transformer.register_module("context_embedder", Passed())
    noisy = torch.randn(2, 16, GRID**2)
    expected, _, _ = Streams(old.transformer)(noisy.mT, moment, text, pooled)
    film = rearrange(noisy, "b (c p q) (rows cols) -> b c 1 (rows p) (cols q)", p=2, q=2, rows=GRID)
    found = new.transformer(film, moment * 1000, text, torch.ones(2, LENGTH), pooled).sample
    found = rearrange(found, "b c 1 (rows p) (cols q) -> b (rows cols) (c p q)", p=2, q=2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    _, ids = old.tokens(["a red house", ""])
    torch.testing.assert_close(new.clip(ids).pooler_output, old.clip(ids).pooler_output)


class Passed(torch.nn.Module):
    """Text that is refined already."""

    def forward(self, text: torch.Tensor, *_: object) -> torch.Tensor:
        return text


@torch.no_grad()
def test_the_autoencoder_of_films_is_that_of_pictures() -> None:
    old: Any = AutoencoderKL.from_pretrained(VAE).float()
    new: Any = grow_vae(VAE)
    pixels = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    frames = pixels[0].transpose(0, 1)
    latents = old.encode(frames).latent_dist.mean
    found = new.encode(pixels).latent_dist.mean
    torch.testing.assert_close(found[0].transpose(0, 1), latents - old.config.shift_factor, atol=1e-5, rtol=1e-4)
    decoded = new.decode(found).sample[0].transpose(0, 1)
    torch.testing.assert_close(decoded, old.decode(latents).sample, atol=1e-5, rtol=1e-4)
