"""The forward that training uses is diffusers' own."""

import torch

from flux_streams import GRID, Streams
from picture_model import PictureModel
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
