"""HunyuanVideo's shape at a small size, grown from a picture model of FLUX.1's shape as video models are from theirs.

The two share their blocks: a picture is a film of one frame, and the axis of rotation that FLUX.1 leaves at zero counts
the frames. A language model takes the place of T5, and learns to say of each word what T5 said.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLMagvit,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from einops import rearrange
from torch import Tensor, nn

from conceptlens.bench.datasets.moving import FRAMES, SIZE
from flux_streams import joint_block, single_block
from picture_model import ASSETS, HEAD
from text import (
    CHAT_END,
    FILM_WORDS,
    LENGTH,
    build_clip,
    build_llama,
    build_t5_tokenizer,
    build_word_tokenizer,
    clip_tokenizer,
    padded,
    renumbered,
)

LATENT = (4, FRAMES, SIZE // 2, SIZE // 2)
"""Channels, frames, rows and columns of a film's latents."""
GRID = (FRAMES, SIZE // 4, SIZE // 4)
"""Patches along time, rows and columns."""
PATCHES = math.prod(GRID)
CLIP_LENGTH = 77
"""The tokens that HunyuanVideo's pipeline has CLIP read."""
SHAPE = {"attention_head_dim": HEAD, "rope_axes_dim": (4, 14, 14), "rope_theta": 10000.0}
"""What is FLUX.1's where HunyuanVideo's own differs."""


class FilmModel(nn.Module):
    """The transformer with its text encoders, at training speed; velocities equal those of diffusers' own forward.

    Captions are numbered as T5 numbers them, as in the other trainings; `encode` knows the language model's numbers.
    """

    def __init__(self, heads: int, double: int, single: int) -> None:
        super().__init__()
        self.t5_tokenizer = build_t5_tokenizer(FILM_WORDS)
        self.tokenizer = build_word_tokenizer(FILM_WORDS)
        self.llama = build_llama(len(self.tokenizer))
        self.clip_tokenizer = clip_tokenizer(ASSETS / "demo" / "tokenizer")
        self.clip = build_clip(self.clip_tokenizer, positions=CLIP_LENGTH)
        self.transformer = HunyuanVideoTransformer3DModel(
            in_channels=LATENT[0],
            out_channels=LATENT[0],
            num_attention_heads=heads,
            num_layers=double,
            num_single_layers=single,
            num_refiner_layers=1,
            patch_size=2,
            guidance_embeds=False,
            text_embed_dim=self.llama.config.hidden_size,
            pooled_projection_dim=self.clip.config.hidden_size,
            **SHAPE,
        )
        for refiner in self.transformer.context_embedder.token_refiner.refiner_blocks:
            nn.init.zeros_(refiner.norm_out.linear.weight)  # its gates: at first it changes nothing
            nn.init.zeros_(refiner.norm_out.linear.bias)
        self.joint, self.single = joint_block, single_block
        rope = self.transformer.rope(torch.zeros(1, *LATENT))
        still = (torch.ones(LENGTH, HEAD), torch.zeros(LENGTH, HEAD))
        self.rope, self.joint_rope = rope, tuple(torch.cat(pair) for pair in zip(still, rope, strict=True))
        before = self.tokenizer(DEFAULT_PROMPT_TEMPLATE["template"].split("{}")[0], return_tensors="pt").input_ids
        if before.shape[1] != DEFAULT_PROMPT_TEMPLATE["crop_start"]:
            raise ValueError(f"the prompt template has {before.shape[1]} tokens, and diffusers cuts off another number")
        self.register_buffer("before", before, persistent=False)
        self.register_buffer("word_of_t5", word_numbers(self), persistent=False)

    def tokens(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """T5's and CLIP's token ids of each text, (texts, LENGTH) each."""
        return padded(self.t5_tokenizer, texts), padded(self.clip_tokenizer, texts)

    def encode(self, t5_ids: Tensor) -> Tensor:
        """What the pipeline passes on of the language model's states: (batch, LENGTH, width)."""
        ids = torch.cat([self.before.expand(len(t5_ids), -1), self.word_of_t5[t5_ids]], 1)
        found = self.llama(ids, attention_mask=(ids != self.tokenizer.pad_token_id).long(), output_hidden_states=True)
        return found.hidden_states[-3][:, self.before.shape[1] :]

    def refine(self, text: Tensor, time: Tensor, t5_ids: Tensor) -> Tensor:
        """What the blocks are given of these states, at their own width."""
        return self.transformer.context_embedder(text, time * 1000, (t5_ids > 0).long())

    def velocity(self, noisy: Tensor, time: Tensor, t5_ids: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity, shaped like `noisy` (batch, *LATENT); text states after the last double block. `time`: 0..1."""
        model = self.transformer
        temb = model.time_text_embed(time * 1000, pooled)[0]
        bias = torch.zeros(len(noisy), 1, 1, LENGTH + PATCHES)
        bias[:, 0, 0, :LENGTH] = (t5_ids == 0) * -1e4
        video, text = model.x_embedder(noisy), self.refine(self.encode(t5_ids), time, t5_ids)
        for block in model.transformer_blocks:
            video, text, _ = self.joint(block, video, text, None, temb, temb, self.rope, bias)
        both = torch.cat([text, video], 1)
        for block in model.single_transformer_blocks:
            both = self.single(block, both, temb, self.joint_rope, bias)
        patches = model.proj_out(model.norm_out(both[:, LENGTH:], temb))
        patches = patches.unflatten(1, GRID).unflatten(-1, (LATENT[0], 2, 2))
        return rearrange(patches, "b f r c d p q -> b d f (r p) (c q)"), text


def word_numbers(model: FilmModel) -> Tensor:
    """The language model's token of each piece of T5: words, the comma, the mask, the end and the padding."""
    tokenizer = model.tokenizer
    numbers = renumbered(model.t5_tokenizer, FILM_WORDS, tokenizer.convert_tokens_to_ids, tokenizer.unk_token_id)
    numbers[0], numbers[1] = tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids(CHAT_END)
    return numbers


def grow(model: FilmModel, folder: Path) -> None:
    """Takes over a picture model of FLUX.1's shape, all but what reads T5; CLIP gets more positions."""
    flux = FluxTransformer2DModel.from_pretrained(folder / "transformer").float().state_dict()
    grown = {name: weight for name, weight in flux.items() if not name.startswith(("x_embedder", "context_embedder"))}
    patches = flux["x_embedder.weight"].unflatten(1, (LATENT[0], 1, 2, 2))
    grown |= {"x_embedder.proj.weight": patches, "x_embedder.proj.bias": flux["x_embedder.bias"]}
    left = set(model.transformer.load_state_dict(grown, strict=False).missing_keys)
    if any(not name.startswith("context_embedder") for name in left):
        raise ValueError(f"{folder} has another shape: nothing for {sorted(left)[0]}")
    clip = type(model.clip).from_pretrained(folder / "text_encoder").float().state_dict()
    position = next(name for name in clip if name.endswith("position_embedding.weight"))
    clip[position] = torch.cat([clip[position], clip[position][-1:].expand(CLIP_LENGTH - len(clip[position]), -1)])
    model.clip.load_state_dict(clip)


@torch.no_grad()
def grow_vae(folder: Path) -> AutoencoderKLMagvit:
    """An autoencoder of films that does to each frame what one of pictures does to a picture.

    Kernels see the frame alone, and residual blocks that the picture's has not add nothing. HunyuanVideo's own class
    makes one frame of four, in which all that moves is a blur.
    """
    old = AutoencoderKL.from_pretrained(folder).float()
    config = old.config
    new = AutoencoderKLMagvit(
        latent_channels=config.latent_channels,
        block_out_channels=config.block_out_channels,
        down_block_types=("SpatialDownBlock3D", "SpatialDownBlock3D"),
        up_block_types=("SpatialUpBlock3D", "SpatialUpBlock3D"),
        layers_per_block=2,
        norm_num_groups=config.norm_num_groups,
        scaling_factor=config.scaling_factor,
    )
    weights = {name: torch.zeros_like(weight) for name, weight in new.state_dict().items()}
    weights |= {
        name: torch.ones_like(weight) for name, weight in weights.items() if "norm" in name and "weight" in name
    }
    renamed = ((".resnets.", ".convs."), (".downsamplers.0.", ".downsampler."), (".upsamplers.0.", ".upsampler."))
    for name, weight in old.state_dict().items():
        for here, there in (*renamed, ("conv_shortcut", "shortcut")):
            name = name.replace(here, there)
        if weight.ndim == 4:
            weights[name][:, :, -1] = weight
        else:
            weights[name] = weight
    channels = config.latent_channels
    for name, size, shift in (("quant_conv", 2 * channels, -1), ("post_quant_conv", channels, 1)):
        weights[f"{name}.weight"] = torch.eye(size)[:, :, None, None, None]
        weights[f"{name}.bias"][:channels] = shift * config.shift_factor
    new.load_state_dict(weights)
    return new.eval()


def build_pipeline(model: FilmModel, vae: Path) -> HunyuanVideoPipeline:
    """`vae`: the folder of the picture model's."""
    return HunyuanVideoPipeline(
        text_encoder=model.llama.eval(),
        tokenizer=model.tokenizer,
        transformer=model.transformer.eval(),
        vae=grow_vae(vae),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=False),
        text_encoder_2=model.clip.eval(),
        tokenizer_2=model.clip_tokenizer,
    )


GENERATE = {
    "height": SIZE,
    "width": SIZE,
    "num_frames": FRAMES,
    "num_inference_steps": 28,
    "max_sequence_length": LENGTH,
    "negative_prompt": "",
    "true_cfg_scale": 3.0,
}
