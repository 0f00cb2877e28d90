"""Tiny random Stable Diffusion (XL) pipelines: the real classes, 16x16 latents, cross-attention at 8x8."""

# pyright: reportArgumentType=false
# Libraries annotate tuples of any length as tuples of one, and tokenizers as one class.

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from specimens.random_models import randomize
from tiny_models import clip_text, quiet, tiny_vae, tokenizers

NOISE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SCHEDULERS = {
    "ddim": lambda: DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False),
    "pndm": lambda: PNDMScheduler(**NOISE, skip_prk_steps=True, set_alpha_to_one=False),
    "euler": lambda: EulerDiscreteScheduler(**NOISE),
    "dpm++": lambda: DPMSolverMultistepScheduler(**NOISE),
}


def text_encoder(cls: Any, width: int, vocabulary: int, layers: int = 2) -> Any:
    return randomize(clip_text(cls, width, vocabulary, projection=width, layers=layers), 0.3)


def unet(context: int, **changes: Any) -> UNet2DConditionModel:
    torch.manual_seed(0)
    made = UNet2DConditionModel(
        **{
            "sample_size": 16,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": context,
            "attention_head_dim": 2,
            "norm_num_groups": 4,
            **changes,
        }
    ).eval()
    # Maps of small random weights are all alike; these make them differ.
    for name, weight in made.named_parameters():
        if "attn2.to_q" in name or "attn2.to_k" in name:
            weight.data *= 3
    return made


def stable_diffusion(unet: Any, encoder: Any, scheduler: Any, vae: Any) -> StableDiffusionPipeline:
    return quiet(
        StableDiffusionPipeline(
            vae=vae,
            text_encoder=encoder,
            tokenizer=tokenizers()[0],
            unet=unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def stable_diffusion_xl(
    unet: Any, encoders: tuple[Any, Any], scheduler: Any, vae: Any, *, pad: str | None = None
) -> StableDiffusionXLPipeline:
    """`pad`: the padding token of the second tokenizer, where it is not that of the first."""
    first, second = tokenizers()[0], tokenizers()[0]
    if pad is not None:
        second.pad_token = pad
    return quiet(
        StableDiffusionXLPipeline(
            vae=vae,
            text_encoder=encoders[0],
            tokenizer=first,
            text_encoder_2=encoders[1],
            tokenizer_2=second,
            unet=unet,
            scheduler=scheduler,
            add_watermarker=False,
        )
    )


def sd_pipeline(scheduler: str = "ddim", **changes: Any) -> StableDiffusionPipeline:
    encoder = text_encoder(CLIPTextModel, 12, len(tokenizers()[0]))
    return stable_diffusion(unet(12, **changes), encoder, SCHEDULERS[scheduler](), tiny_vae())


def sdxl_pipeline(scheduler: str = "euler") -> StableDiffusionXLPipeline:
    words = len(tokenizers()[0])
    encoders = (
        text_encoder(CLIPTextModel, 12, words),
        text_encoder(CLIPTextModelWithProjection, 8, words, layers=3),
    )
    made = unet(
        20,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 8,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
    )
    return stable_diffusion_xl(made, encoders, SCHEDULERS[scheduler](), tiny_vae(), pad="!")
