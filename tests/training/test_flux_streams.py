"""The forward that training uses is diffusers' own."""

import torch
from einops import rearrange

from film_model import LATENT, FilmModel
from flux_streams import GRID, Streams
from picture_model import ASSETS, PictureModel
from sd3_model import SD3Model, build_pipeline
from text import LENGTH


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


@torch.no_grad()
def test_velocity_of_cogvideox_equals_diffusers() -> None:
    torch.manual_seed(0)
    model = FilmModel(heads=2, blocks=3, mending=2).eval()
    noisy, text, timestep = torch.randn(2, *LATENT), torch.randn(2, LENGTH, 96), torch.tensor([200, 700])
    velocity, states = model.predict(noisy, timestep, text)
    expected = model.transformer(noisy, text, timestep, image_rotary_emb=model.rope).sample
    torch.testing.assert_close(velocity, expected, atol=1e-5, rtol=1e-4)
    assert states.shape == (2, LENGTH, 64)
