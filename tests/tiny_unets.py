"""Tiny random Stable Diffusion pipelines and CLIP models of the real classes, saved as ordinary folders."""

# pyright: reportArgumentType=false
# Libraries annotate tuples of any length as tuples of one, and tokenizers as one class.

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTextModelWithProjection

from specimens.random_models import randomize
from tiny_models import clip_text, flux_pipeline, tokenizers
from tiny_sd import NOISE, stable_diffusion, stable_diffusion_xl

WIDE, WIDER, POOLED = 8, 12, 10
SIDE = 32
"""Side in pixels of the images that the tiny pipelines are shown; their latents are half as wide."""


def _vae() -> AutoencoderKL:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=SIDE,
    )
    return vae.eval()


def unet(context: int, **changes: Any) -> UNet2DConditionModel:
    """Cross-attention at full and half size of the latents, in the down, middle and up blocks."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "sample_size": 16,
    }
    kinds: dict[str, Any] = {
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    }
    config: dict[str, Any] = {
        "cross_attention_dim": context,
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
    }
    return randomize(UNet2DConditionModel(**{**shape, **kinds, **config, **changes}))


def _text_encoder(cls: Any, width: int) -> Any:
    return randomize(clip_text(cls, width, len(tokenizers()[0]), projection=POOLED), 0.5)


def sd2_pipeline() -> StableDiffusionPipeline:
    scheduler = PNDMScheduler(**NOISE, skip_prk_steps=True)
    return stable_diffusion(unet(WIDE), _text_encoder(CLIPTextModel, WIDE), scheduler, _vae())


def sdxl_pipeline() -> StableDiffusionXLPipeline:
    encoders = _text_encoder(CLIPTextModel, WIDE), _text_encoder(CLIPTextModelWithProjection, WIDER)
    time_ids: dict[str, Any] = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    made = unet(WIDE + WIDER, projection_class_embeddings_input_dim=6 * 4 + POOLED, **time_ids)
    return stable_diffusion_xl(made, encoders, EulerDiscreteScheduler(**NOISE, timestep_spacing="leading"), _vae())


Builder = Callable[[Path], tuple[Any, dict[str, Any]]]


def saved(pipeline: Callable[[], Any], folder: Path) -> Path:
    """The folder, with a pipeline that generates and reads squares of `SIDE` pixels."""
    pipeline().save_pretrained(folder)
    (folder / "conceptlens.json").write_text(json.dumps({"generate": {"height": SIDE, "width": SIDE}}))
    return folder


def tiny_clip(**vision: Any) -> CLIPModel:
    """Image and text towers of three and two layers; images of 16 pixels in 4 x 4 patches."""
    torch.manual_seed(0)
    clip, _ = tokenizers()
    shape: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
    }
    text: dict[str, Any] = {**shape, "num_hidden_layers": 2, "vocab_size": len(clip), "max_position_embeddings": 77}
    ends: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = CLIPConfig(
        text_config={**text, **ends},
        vision_config={**shape, "image_size": 16, "patch_size": 4, **vision},
        projection_dim=POOLED,
    )
    return randomize(CLIPModel(config), 0.3)


def _clip_as_rnn(folder: Path) -> tuple[str, dict[str, Any]]:
    for name, changes in (("proposer", {}), ("scorer", {"patch_size": 8})):
        tiny_clip(**changes).save_pretrained(folder / name)
        tokenizers()[0].save_pretrained(folder / name)
    return str(folder / "proposer"), {"scorer": str(folder / "scorer"), "size": SIDE}


METHODS_TINY_UNET: dict[str, Builder] = {
    "daam": lambda folder: (str(saved(sdxl_pipeline, folder / "sdxl")), {"size": SIDE}),
    "ovam": lambda folder: (str(saved(sd2_pipeline, folder / "sd2")), {"size": SIDE}),
    "cross-attention-prompt": lambda folder: (str(saved(flux_pipeline, folder / "flux")), {"noise": 0.4}),
    "clip-as-rnn": _clip_as_rnn,
}
"""By the name of a method: writes a tiny model into a folder and gives the arguments of its `load`."""
