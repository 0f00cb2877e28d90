"""Models that were grown from smaller ones: what is new changes nothing before it is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from deepen import deepen, solver_names
from flux_streams import Streams
from picture_model import in_blocks
from steps import optimizers
from text import LENGTH
from train_neutral import CaptionModel
from unet_model import SECOND_WIDTH, SIZE_CHANNELS, WIDTH, DemoUNet, DemoUNetXL, grow


def small_unet(folder: Path) -> UNet2DConditionModel:
    torch.manual_seed(0)
    model = DemoUNet((16, 16, 24))
    model.unet.save_pretrained(folder / "unet")
    model.text_encoder.save_pretrained(folder / "text_encoder")
    return model.unet


def test_sdxl_shape_begins_as_the_unet_it_is_grown_from(tmp_path: Path) -> None:
    old = small_unet(tmp_path)
    model = DemoUNetXL((16, 16, 24))
    grow(model, tmp_path)
    noisy, moment = torch.randn(2, 4, 32, 32), torch.tensor([20, 900])
    text, second = torch.randn(2, LENGTH, WIDTH), torch.randn(2, LENGTH, SECOND_WIDTH)
    known = {"text_embeds": torch.randn(2, SECOND_WIDTH), "time_ids": torch.full((2, 6), 64.0)}
    with torch.no_grad():
        expected = old(noisy, moment, encoder_hidden_states=text).sample
        joined = torch.cat([text, second], -1)
        got = model.unet(noisy, moment, encoder_hidden_states=joined, added_cond_kwargs=known).sample
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_a_trained_sdxl_shape_reads_both_encoders_and_the_summary() -> None:
    torch.manual_seed(0)
    model = DemoUNetXL((16, 16, 24))
    assert dict(model.unet.config)["projection_class_embeddings_input_dim"] == SECOND_WIDTH + 6 * SIZE_CHANNELS
    tokens = model.tokens(["a red house", "a blue boat"])
    model(torch.randn(2, 4, 32, 32), torch.tensor([20, 900]), tokens).square().mean().backward()
    unread = {name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None}
    assert not unread
    tables = [weight for name, weight in model.named_parameters() if name.endswith(".token_embedding.weight")]
    assert len(tables) == 2
    for table in tables:
        assert table.grad is not None
        assert table.grad.abs().sum() > 0


@pytest.fixture
def checkpoint() -> dict:
    """A small model after one step."""
    torch.manual_seed(0)
    model = CaptionModel(2, 1, 1)
    solvers = optimizers(model, 1e-3, in_blocks)
    torch.stack([weight.sum() for weight in model.parameters()]).sum().backward()
    for solver in solvers:
        solver.step()
    args = {"heads": 2, "double": 1, "single": 1, "rate": 1e-3, "optimizer": "muon"}
    weights = model.state_dict()
    return {"model": weights, "average": weights, "solvers": [s.state_dict() for s in solvers], "step": 1, "args": args}


def test_a_deepened_model_is_the_same_function(checkpoint: dict) -> None:
    deeper = deepen(checkpoint, 3)
    old, new = CaptionModel(2, 1, 1), CaptionModel(2, 1, deeper["args"]["single"])
    old.load_state_dict(checkpoint["average"])
    new.load_state_dict(deeper["average"])
    call = (torch.randn(2, 256, 16), torch.tensor([0.2, 0.9]), torch.randn(2, LENGTH, 96), torch.randn(2, 64))
    with torch.no_grad():
        expected, got = (Streams(model.transformer)(*call)[0] for model in (old, new))
    torch.testing.assert_close(got, expected)


def test_a_deepened_checkpoint_keeps_what_its_solvers_know(checkpoint: dict) -> None:
    deeper = deepen(checkpoint, 2)
    models = CaptionModel(2, 1, 1), CaptionModel(2, 1, 2)
    pairs = [optimizers(model, 1e-3, in_blocks) for model in models]
    old_names, new_names = (solver_names(*pair) for pair in zip(models, pairs, strict=True))
    for before, after, old, new in zip(checkpoint["solvers"], deeper["solvers"], old_names, new_names, strict=True):
        known = {new[index]: state for index, state in after["state"].items()}
        assert known.keys() == set(old)
        for index, state in before["state"].items():
            for key, value in state.items():
                torch.testing.assert_close(known[old[index]][key], value)
    for solver, state in zip(pairs[1], deeper["solvers"], strict=True):
        solver.load_state_dict(state)
