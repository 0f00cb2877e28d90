"""Tiny random Stable Diffusion (XL) pipelines: the real classes, 16x16 latents, cross-attention at 8x8."""

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
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from conceptlens.adapters._random_models import randomize
from tiny_models import tiny_vae, tokenizers

NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SCHEDULERS = {
    "ddim": lambda: DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False),
    "pndm": lambda: PNDMScheduler(**NOISE, skip_prk_steps=True, set_alpha_to_one=False),
    "euler": lambda: EulerDiscreteScheduler(**NOISE),
    "dpm++": lambda: DPMSolverMultistepScheduler(**NOISE),
}


def text_encoder(cls: Any, width: int, vocabulary: int, layers: int = 2) -> Any:
    torch.manual_seed(width)
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return randomize(cls(config), 0.3)


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


def sd_pipeline(scheduler: str = "ddim", **changes: Any) -> StableDiffusionPipeline:
    tokenizer = tokenizers()[0]
    pipeline = StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=text_encoder(CLIPTextModel, 12, len(tokenizer)),
        tokenizer=tokenizer,
        unet=unet(12, **changes),
        scheduler=SCHEDULERS[scheduler](),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sdxl_pipeline(scheduler: str = "euler") -> StableDiffusionXLPipeline:
    tokenizer, second = tokenizers()[0], tokenizers()[0]
    second.pad_token = "!"
    pipeline = StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=text_encoder(CLIPTextModel, 12, len(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=text_encoder(CLIPTextModelWithProjection, 8, len(tokenizer), layers=3),
        tokenizer_2=second,
        unet=unet(
            20,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=6 * 4 + 8,
            transformer_layers_per_block=(1, 2),
            use_linear_projection=True,
        ),
        scheduler=SCHEDULERS[scheduler](),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
