"""One small random model per method, saved as an ordinary folder: what `method_named(name).load(...)` is given.

To put a method under contract, add its builder to `METHODS_TINY`.
"""

# pyright: reportArgumentType=false
# Libraries annotate tuples of any length as tuples of one, and tokenizers as one class.

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from conceptlens.methods import method_named
from specimens.random_models import randomize
from tiny_models import tokenizers

Built = tuple[Any, dict[str, Any]]
"""The model argument and the options of `load`."""

SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
WIDE: dict[str, Any] = {**SHAPE, "intermediate_size": 64}


def tiny_vit(**changes: Any) -> ViTForImageClassification:
    torch.manual_seed(0)
    return randomize(ViTForImageClassification(ViTConfig(**{**WIDE, "num_labels": 5, **changes})))


def tiny_clip(**changes: Any) -> CLIPModel:
    torch.manual_seed(0)
    words = tokenizers()[0]
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    vision = CLIPVisionConfig(**{**WIDE, **changes})
    return randomize(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)))


def vit_folder(folder: Path) -> Built:
    tiny_vit().save_pretrained(folder / "vit")
    return str(folder / "vit"), {}


def clip_folder(folder: Path) -> Built:
    tiny_clip().save_pretrained(folder / "clip")
    tokenizers()[0].save_pretrained(folder / "clip")
    return str(folder / "clip"), {}


def dino_folder(folder: Path) -> Built:
    torch.manual_seed(0)
    randomize(ViTModel(ViTConfig(**WIDE), add_pooling_layer=False)).save_pretrained(folder / "dino")
    return str(folder / "dino"), {"size": 32}


def dinov2_folder(folder: Path) -> Built:
    torch.manual_seed(0)
    randomize(Dinov2Model(Dinov2Config(**SHAPE, mlp_ratio=2))).save_pretrained(folder / "dinov2")
    return str(folder / "dinov2"), {"size": 32}


def dinov2_reg_folder(folder: Path) -> Built:
    torch.manual_seed(0)
    config = Dinov2WithRegistersConfig(**SHAPE, mlp_ratio=2, num_register_tokens=4)
    randomize(Dinov2WithRegistersModel(config)).save_pretrained(folder / "reg")
    return str(folder / "reg"), {"size": 32}


METHODS_TINY: dict[str, Callable[[Path], Built]] = {
    "dino": dino_folder,
    "dinov2": dinov2_folder,
    "dinov2-reg": dinov2_reg_folder,
    "gradcam": vit_folder,
    "ibot": dino_folder,
    "lrp": vit_folder,
    "partial-lrp": clip_folder,
    "rollout": vit_folder,
    "textspan": clip_folder,
    "transinterp": clip_folder,
    "vit-attention": vit_folder,
}
"""Method name -> builder(folder) -> (model argument, options)."""


def method_class(name: str) -> Any:
    """A method's class, untyped: tests open it on what `load` would have opened, and look inside."""
    return method_named(name)
