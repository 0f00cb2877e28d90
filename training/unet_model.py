"""The U-Nets of Stable Diffusion 2's and Stable Diffusion XL's shape, with their text encoders, and their pipelines."""

from __future__ import annotations

import re
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection

from picture_model import ASSETS
from text import LENGTH, build_clip, clip_tokenizer

WIDTH = 96
"""Channels of the text encoder that all of these models have."""
SECOND_WIDTH = 64
"""Channels of the second one, which Stable Diffusion XL has beside it."""
SIZE_CHANNELS = 8
"""Of each of the six numbers that say how large a picture is and what was cut from it."""
NOISE_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "prediction_type": "v_prediction",
}
"""Stable Diffusion's own."""
LAST_OF_A_BRANCH = re.compile(r"transformer_blocks\.\d+\.(attn[12]\.to_out\.0|ff\.net\.2)\.|^add_embedding\.linear_2\.")
"""Weights without which a transformer layer, or what is known of the size, adds nothing."""


class DemoUNet(nn.Module):
    """What is trained together: one text encoder and the U-Net that reads its last states."""

    def __init__(self, channels: tuple[int, ...], layers: int = 2, **unet: object) -> None:
        super().__init__()
        self.tokenizer = clip_tokenizer(ASSETS / "demo-unet" / "tokenizer")
        self.text_encoder = build_clip(self.tokenizer, WIDTH, layers)
        self.unet = build_unet(channels, **unet)

    def tokens(self, texts: list[str]) -> Tensor:
        return self.tokenizer(
            texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
        ).input_ids

    def forward(self, noisy: Tensor, moment: Tensor, tokens: Tensor) -> Tensor:
        text = self.text_encoder(tokens).last_hidden_state
        return self.unet(noisy, moment, encoder_hidden_states=text, return_dict=False)[0]

    def pipeline(self) -> DiffusionPipeline:
        return StableDiffusionPipeline(
            vae=build_vae(),
            text_encoder=self.text_encoder.eval(),
            tokenizer=self.tokenizer,
            unet=self.unet.eval(),
            scheduler=build_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


class DemoUNetXL(DemoUNet):
    """Two text encoders, read one block before the last and side by side, the second one's summary, and the size."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__(
            channels,
            layers=3,
            cross_attention_dim=WIDTH + SECOND_WIDTH,
            transformer_layers_per_block=(1,) * (len(channels) - 1) + (2,),
            addition_embed_type="text_time",
            addition_time_embed_dim=SIZE_CHANNELS,
            projection_class_embeddings_input_dim=SECOND_WIDTH + 6 * SIZE_CHANNELS,
        )
        for unread in (self.text_encoder.encoder.layers[-1], self.text_encoder.final_layer_norm):
            unread.requires_grad_(False)
        self.text_encoder_2 = build_clip(self.tokenizer, SECOND_WIDTH, layers=3, kind=CLIPTextModelWithProjection)

    def forward(self, noisy: Tensor, moment: Tensor, tokens: Tensor) -> Tensor:
        first = self.text_encoder(tokens, output_hidden_states=True).hidden_states[-2]
        second = self.text_encoder_2(tokens, output_hidden_states=True)
        side = 2 * noisy.shape[-1]
        size = torch.tensor([side, side, 0, 0, side, side]).expand(len(noisy), -1)
        return self.unet(
            noisy,
            moment,
            encoder_hidden_states=torch.cat([first, second.hidden_states[-2]], -1),
            added_cond_kwargs={"text_embeds": second.text_embeds, "time_ids": size},
            return_dict=False,
        )[0]

    def pipeline(self) -> DiffusionPipeline:
        return StableDiffusionXLPipeline(
            vae=build_vae(),
            text_encoder=self.text_encoder.eval(),
            text_encoder_2=self.text_encoder_2.eval(),
            tokenizer=self.tokenizer,
            tokenizer_2=self.tokenizer,
            unet=self.unet.eval(),
            scheduler=EulerDiscreteScheduler(**NOISE_SCHEDULE, timestep_spacing="leading"),
            force_zeros_for_empty_prompt=False,
            add_watermarker=False,
        )


SHAPES = {"sd2": DemoUNet, "sdxl": DemoUNetXL}


def build_unet(channels: tuple[int, ...], **more: object) -> UNet2DConditionModel:
    """Cross-attention at 16x16 (three layers) and 8x8 (four layers); convolutions alone above that, at 32x32."""
    plain = len(channels) - 2
    usual = {
        "sample_size": 16 * 2**plain,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": channels,
        "down_block_types": ("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",) * plain,
        "layers_per_block": 1,
        "time_embedding_dim": 4 * channels[plain],
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
        "use_linear_projection": True,
    }
    return UNet2DConditionModel(**usual | more)


def build_scheduler() -> DDIMScheduler:
    return DDIMScheduler(**NOISE_SCHEDULE, clip_sample=False, set_alpha_to_one=False)


def build_vae() -> AutoencoderKL:
    """The demo's autoencoder, as Stable Diffusion's pipelines use it: scaled, not shifted."""
    vae = AutoencoderKL.from_pretrained(ASSETS / "demo" / "vae").float()
    vae.register_to_config(shift_factor=None)
    return vae


def grow(model: DemoUNet, folder: Path) -> None:
    """Weights of an exported folder for a larger model around them; what is new begins as it was drawn.

    The folder's U-Net may have one level less, read fewer channels of text or have fewer transformer layers. What it
    has not of the last two starts without effect, so that the model begins near the folder's.
    """
    old = UNet2DConditionModel.from_pretrained(folder / "unet").float()
    shift = len(model.unet.config.block_out_channels) - len(old.config.block_out_channels)
    new, taken = model.unet.state_dict(), {}
    for name, weight in old.state_dict().items():
        place = re.sub(r"^down_blocks\.(\d)", lambda found: f"down_blocks.{int(found[1]) + shift}", name)
        if place not in new or (shift and name.startswith("conv_")):
            continue
        if new[place].shape == weight.shape:
            taken[place] = weight
        elif name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight")):
            taken[place] = F.pad(weight, (0, new[place].shape[1] - weight.shape[1]))
    for name in new.keys() - taken.keys():
        if LAST_OF_A_BRANCH.search(name):
            new[name].zero_()
    model.unet.load_state_dict(new | taken)
    saved = type(model.text_encoder).from_pretrained(folder / "text_encoder").float()
    model.text_encoder.load_state_dict(saved.state_dict(), strict=not isinstance(model, DemoUNetXL))
    print(f"grown from {folder}: {sum(w.numel() for w in taken.values()) / 1e6:.2f}M weights", flush=True)
