"""iBOT self-attention (Zhou et al., arXiv 2111.07832; row "iBOT SA" of arXiv 2502.04320, Table 1).

There is no iBOT in transformers' format on the hub. `load` takes the original checkpoint file as it is, or a folder
that `convert_checkpoint` wrote.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import ViTConfig, ViTModel

from conceptlens.methods import register
from conceptlens.methods._selfattention import SelfAttentionMethod
from conceptlens.methods._vit import IMAGENET_MEAN, IMAGENET_STD, Family, Opened
from conceptlens.methods.base import MethodInfo
from conceptlens.readers.loading import device_of
from conceptlens.readers.opening import quiet_loading
from conceptlens.values.errors import ModelError, OutputError, one_line

_WHERE = "vits_16/checkpoint_teacher.pth of the iBOT authors"
_HEAD_WIDTH = 64
_IN_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_OUTSIDE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The backbone's weights of an original checkpoint, by their original names.

    Raises:
        ModelError: when the file cannot be read or holds no ViT.
    """
    try:
        said = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ModelError(f"cannot read {path}: {one_line(error)}. Give {_WHERE}.") from error
    while isinstance(said, Mapping) and (inner := next((k for k in ("state_dict", "teacher") if k in said), None)):
        said = said[inner]
    weights = {}
    for name, weight in said.items() if isinstance(said, Mapping) else ():
        short = str(name).removeprefix("module.").removeprefix("backbone.")
        if isinstance(weight, Tensor) and not short.startswith(("head", "masked_embed")):
            weights[short] = weight.float()
    strange = [n for n in weights if "gamma" in n]
    if "blocks.0.attn.qkv.weight" not in weights or strange:
        found = f"it has {strange[0]}" if strange else "it has no blocks.0.attn.qkv.weight"
        raise ModelError(f"{path} is no iBOT checkpoint of a plain ViT: {found}. Give {_WHERE}.")
    return weights


def build_model(weights: Mapping[str, Tensor], heads: int | None = None) -> ViTModel:
    """The `ViTModel` of original weights; heads are 64 wide unless their number is given.

    Raises:
        ModelError: when the weights are not those of a plain ViT.
    """
    try:
        width, _, patch, _ = weights["patch_embed.proj.weight"].shape
        depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
        renamed: dict[str, Tensor] = {}
        for name, weight in weights.items():
            renamed.update(_rename(name, weight))
        config = ViTConfig(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads or width // _HEAD_WIDTH,
            intermediate_size=weights["blocks.0.mlp.fc1.weight"].shape[0],
            image_size=round((weights["pos_embed"].shape[1] - 1) ** 0.5) * patch,
            patch_size=patch,
            qkv_bias="blocks.0.attn.qkv.bias" in weights,
            layer_norm_eps=1e-6,
        )
        model = ViTModel(config, add_pooling_layer=False)
        model.load_state_dict(renamed, strict=True)
    except (KeyError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ModelError(f"these weights are not those of an iBOT ViT: {one_line(error)}. Give {_WHERE}.") from error
    return model.eval()


def _rename(name: str, weight: Tensor) -> dict[str, Tensor]:
    if name in _OUTSIDE:
        return {_OUTSIDE[name]: weight}
    _, number, rest = name.split(".", 2)
    layer, kind = rest.rsplit(".", 1)
    if layer == "attn.qkv":
        thirds = weight.chunk(3)
        return {
            f"layers.{number}.attention.{letter}_proj.{kind}": third.clone()
            for letter, third in zip("qkv", thirds, strict=True)
        }
    return {f"layers.{number}.{_IN_BLOCK[layer]}.{kind}": weight}


def convert_checkpoint(checkpoint: str | Path, folder: str | Path, *, heads: int | None = None) -> Path:
    """Writes an original iBOT checkpoint as a folder in transformers' format, with ImageNet's normalisation.

    Raises:
        ModelError: for a file that is no iBOT checkpoint.
        OutputError: when the folder cannot be written.
    """
    model, target = build_model(read_checkpoint(checkpoint), heads), Path(folder)
    try:
        with quiet_loading(progress=False):
            model.save_pretrained(target)
        processor = {
            "image_mean": IMAGENET_MEAN,
            "image_std": IMAGENET_STD,
            "image_processor_type": "ViTImageProcessor",
        }
        (target / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write to {target}: {one_line(error)}. Choose another folder.") from error
    return target


@register
class IBOT(SelfAttentionMethod):
    """Class token attention of iBOT; one map for all concepts."""

    name = "ibot"
    summary = "class token attention of iBOT"
    families = (Family("ibot", _WHERE, "vit", ViTModel, arguments={"add_pooling_layer": False}),)
    defaults = {"size": 480}
    info = MethodInfo(text_conditioned=False, backbone=_WHERE)

    @classmethod
    def _open(cls, source: str | Path, families: Sequence[Family], device: str | None) -> Opened:
        if source == _WHERE:
            raise ModelError(f"iBOT is not on the hub. Download {_WHERE} and give its path.")
        if not Path(source).is_file():
            return super()._open(source, families, device)
        model: Any = build_model(read_checkpoint(source)).requires_grad_(False)
        return Opened(
            model.to(device_of(device)), families[0], str(Path(source).resolve()), IMAGENET_MEAN, IMAGENET_STD
        )
