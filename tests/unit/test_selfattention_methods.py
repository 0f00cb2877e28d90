"""DINO, DINOv2 with and without registers, and iBOT: the models' own attention, wide pictures, the converter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTModel

from conceptlens.methods._vit import IMAGENET_MEAN, IMAGENET_STD
from conceptlens.methods.ibot import build_model, convert_checkpoint, read_checkpoint
from conceptlens.values.errors import ModelError, OutputError, RecipeError
from oracles import dino as oracle
from tiny_methods import METHODS_TINY, method_class, vit_folder

FAMILY = ["dino", "dinov2", "dinov2-reg"]


def picture(width: int = 32, height: int = 32) -> Image.Image:
    random = np.random.default_rng(3).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(random).resize((width, height), Image.Resampling.BICUBIC)


def load(name: str, folder: Path, **options: Any) -> Any:
    model, given = METHODS_TINY[name](folder)
    return method_class(name).load(model, device="cpu", **{**given, **options})


def own_attention(method: Any, image: Image.Image) -> torch.Tensor:
    """The class token's attention in the last block as the model itself gives it, mean over heads."""
    method._model.set_attn_implementation("eager")
    resized = {"interpolate_pos_encoding": True} if isinstance(method._model, ViTModel) else {}
    out = method._model(method._pixels(image), output_attentions=True, **resized)
    method._model.set_attn_implementation("sdpa")
    return out.attentions[-1].mean(dim=1)[0, 0]


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("size", [(32, 32), (64, 32)])
def test_maps_are_the_models_own_attention(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    method, image = load(name, tmp_path), picture(*size)
    maps = method.explain(image, ["house", "tree"])
    row = own_attention(method, image)
    patches = row[-maps.scores[0].numel() :]
    torch.testing.assert_close(maps.scores[0].flatten(), patches, rtol=1e-5, atol=1e-7)
    assert torch.equal(maps.scores[0], maps.scores[1])


def test_registers_and_class_token_are_left_out(tmp_path: Path) -> None:
    method = load("dinov2-reg", tmp_path)
    row = own_attention(method, picture())
    made = method.explain(picture(), ["house"]).scores
    assert len(row) == 1 + 4 + 16
    assert float(made.sum()) == pytest.approx(1 - float(row[0]) - float(row[1:5].sum()), abs=1e-6)
    for offset in (1, 4):
        assert abs(float(row[offset : offset + 16].sum()) - float(made.sum())) > 1e-4


@pytest.mark.parametrize(
    ("size", "grid"), [((32, 32), (4, 4)), ((64, 32), (3, 6)), ((32, 64), (6, 3)), ((300, 40), (1, 11))]
)
@pytest.mark.parametrize("name", FAMILY)
def test_wide_pictures_keep_their_aspect(
    name: str, size: tuple[int, int], grid: tuple[int, int], tmp_path: Path
) -> None:
    maps = load(name, tmp_path).explain(picture(*size), ["house"])
    assert maps.scores.shape == (1, *grid)
    assert maps.scores.isfinite().all()
    assert maps.pixels().shape == (1, size[1], size[0])


@pytest.mark.parametrize("name", FAMILY)
def test_pixels_are_on_the_grid_the_right_way_round(name: str, tmp_path: Path) -> None:
    """Without positions all black patches are alike, so the one white patch alone stands out."""
    method = load(name, tmp_path)
    torch.nn.init.zeros_(method._model.embeddings.position_embeddings)
    image = Image.new("RGB", (48, 24))
    image.paste("white", (40, 0, 48, 8))
    scores = method.explain(image, ["house"]).scores[0]
    assert scores.shape == (3, 6)
    apart = (scores - scores.median()).abs() > 1e-5
    assert apart.nonzero().tolist() == [[0, 5]]


@pytest.mark.parametrize(
    ("name", "patch", "grid"), [("dino", 8, (60, 60)), ("dinov2", 14, (37, 37)), ("ibot", 16, (30, 30))]
)
def test_default_sizes_give_the_grids_of_the_papers(name: str, patch: int, grid: tuple[int, int]) -> None:
    method = method_class(name)
    shell = object.__new__(method)
    shell._options, shell._patch = dict(method.defaults), patch
    width, height = shell._size(picture(500, 500))
    assert (height // patch, width // patch) == grid


def test_size_is_checked(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"size must be 8\.\.4096 pixels for this model; got 4"):
        load("dino", tmp_path, size=4)
    with pytest.raises(RecipeError, match="dino has no setting 'rules'"):
        load("dino", tmp_path, rules="orig")
    with pytest.raises(ModelError, match="type vit; needed: Dinov2Model"):
        method_class("dinov2").load(vit_folder(tmp_path)[0], device="cpu")


def checkpoint(path: Path, **more: Any) -> dict[str, torch.Tensor]:
    """Writes random weights as the iBOT authors do; returns them by their bare names."""
    weights = oracle.random_weights()
    named = {f"module.backbone.{n}" if not n.startswith("head") else f"module.{n}": w for n, w in weights.items()}
    torch.save({"state_dict": {**named, **more}, "epoch": 3}, path)
    return weights


def test_a_converted_checkpoint_computes_what_the_original_code_does(tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "teacher.pth")
    folder = convert_checkpoint(tmp_path / "teacher.pth", tmp_path / "ibot", heads=4)
    method = method_class("ibot").load(folder, device="cpu", size=16)
    pixels = method._pixels(picture(16, 16))
    tokens, row = oracle.forward(weights, pixels[0], heads=4)
    out = method._model(pixels).last_hidden_state[0]
    torch.testing.assert_close(out, tokens.float(), rtol=1e-4, atol=1e-5)
    made = method.explain(picture(16, 16), ["house"]).scores[0].flatten()
    torch.testing.assert_close(made, row.mean(dim=0)[1:].float(), rtol=1e-4, atol=1e-6)
    assert method._model.config.layer_norm_eps == 1e-6
    assert (method._opened.mean, method._opened.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert json.loads((folder / "preprocessor_config.json").read_text())["image_mean"] == list(IMAGENET_MEAN)


def test_an_original_checkpoint_opens_as_it_is(tmp_path: Path) -> None:
    weights = {**oracle.random_weights(width=128, depth=1)}
    torch.save(weights, tmp_path / "teacher.pth")
    convert_checkpoint(tmp_path / "teacher.pth", tmp_path / "ibot")
    at_once, converted = (
        method_class("ibot").load(tmp_path / where, device="cpu", size=16) for where in ("teacher.pth", "ibot")
    )
    assert at_once._model.config.num_attention_heads == 2
    first, second = (m.explain(picture(), ["house"]).scores for m in (at_once, converted))
    assert torch.equal(first, second)
    assert at_once.model_id.endswith("teacher.pth")


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="iBOT is not on the hub"):
        method_class("ibot").load()
    (tmp_path / "broken.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(ModelError, match=r"cannot read .*broken\.pth"):
        method_class("ibot").load(tmp_path / "broken.pth")
    torch.save({"state_dict": {"conv1.weight": torch.ones(2)}}, tmp_path / "resnet.pth")
    with pytest.raises(ModelError, match=r"it has no blocks\.0\.attn\.qkv\.weight"):
        read_checkpoint(tmp_path / "resnet.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="no iBOT checkpoint"):
        read_checkpoint(tmp_path / "list.pth")
    checkpoint(tmp_path / "beit.pth", **{"backbone.blocks.0.gamma_1": torch.ones(16)})
    with pytest.raises(ModelError, match=r"it has blocks\.0\.gamma_1"):
        read_checkpoint(tmp_path / "beit.pth")
    weights = oracle.random_weights()
    del weights["norm.bias"], weights["masked_embed"], weights["head.mlp.0.weight"]
    with pytest.raises(ModelError, match="not those of an iBOT ViT") as failed:
        build_model(weights, heads=4)
    assert "\n" not in str(failed.value)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    checkpoint(tmp_path / "teacher.pth")
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match="Choose another folder"):
        convert_checkpoint(tmp_path / "teacher.pth", tmp_path / "taken", heads=4)
