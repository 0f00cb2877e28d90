"""One small random builder per family: the real diffusers classes, seconds on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from conceptlens.engine.loading import demo_folder

TEXT, POOLED = 20, 12


@dataclass(frozen=True)
class Family:
    """A family under contract.

    `call` makes the arguments of one transformer call for a batch and a patch grid; `pipeline` a whole pipeline.
    """

    name: str
    transformer: Callable[[], Any]
    call: Callable[[int, int, int], dict[str, Any]]
    pipeline: Callable[[], Any]


def randomize(module: nn.Module, scale: float = 0.15) -> Any:
    """Random weights everywhere, norms and biases included, so that no term can hide behind a zero or a one."""
    generator = torch.Generator().manual_seed(7)
    for weight in module.parameters():
        weight.data += scale * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return module.eval()


def flux_transformer(**changes: Any) -> FluxTransformer2DModel:
    torch.manual_seed(0)
    shape = {"num_layers": 4, "num_single_layers": 1, "attention_head_dim": 24, "num_attention_heads": 2}
    config = {"in_channels": 16, "joint_attention_dim": TEXT, "pooled_projection_dim": POOLED, "guidance_embeds": True}
    return randomize(FluxTransformer2DModel(**{"axes_dims_rope": (4, 10, 10), **shape, **config, **changes}))


def sd3_transformer(**changes: Any) -> SD3Transformer2DModel:
    torch.manual_seed(0)
    shape = {"num_layers": 4, "attention_head_dim": 24, "num_attention_heads": 2, "caption_projection_dim": 48}
    config = {"joint_attention_dim": TEXT, "pooled_projection_dim": POOLED, "in_channels": 4, "out_channels": 4}
    more = {"sample_size": 16, "pos_embed_max_size": 24, "qk_norm": "rms_norm"}
    return randomize(SD3Transformer2DModel(**{**shape, **config, **more, **changes}))


def sd3_medium_transformer() -> SD3Transformer2DModel:
    return sd3_transformer(dual_attention_layers=(0, 1))


def sd30_transformer() -> SD3Transformer2DModel:
    return sd3_transformer(qk_norm=None)


def flux_call(batch: int, rows: int, cols: int) -> dict[str, Any]:
    random = torch.Generator().manual_seed(1)
    ids = torch.zeros(rows, cols, 3)
    ids[..., 1], ids[..., 2] = torch.arange(rows)[:, None], torch.arange(cols)
    return {
        "hidden_states": torch.randn(batch, rows * cols, 16, generator=random),
        "encoder_hidden_states": torch.randn(batch, 7, TEXT, generator=random),
        "pooled_projections": torch.randn(batch, POOLED, generator=random),
        "timestep": torch.full((batch,), 0.6),
        "guidance": torch.full((batch,), 3.5),
        "img_ids": ids.flatten(0, 1),
        "txt_ids": torch.zeros(7, 3),
    }


def sd3_call(batch: int, rows: int, cols: int) -> dict[str, Any]:
    random = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(batch, 4, 2 * rows, 2 * cols, generator=random),
        "encoder_hidden_states": torch.randn(batch, 7, TEXT, generator=random),
        "pooled_projections": torch.randn(batch, POOLED, generator=random),
        "timestep": torch.full((batch,), 600.0),
    }


def tiny_vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=32,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.5,
        shift_factor=0.1,
    ).eval()


def _clip(cls: Any, width: int, vocabulary: int) -> Any:
    torch.manual_seed(width)
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width,
        projection_dim=POOLED // 2 if cls is CLIPTextModelWithProjection else POOLED,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return cls(config).eval()


def _t5(vocabulary: int) -> T5EncoderModel:
    torch.manual_seed(3)
    return T5EncoderModel(
        T5Config(vocab_size=vocabulary, d_model=TEXT, d_kv=8, d_ff=24, num_layers=1, num_heads=2, dropout_rate=0.0)
    ).eval()


def tokenizers(length: int = 77) -> tuple[CLIPTokenizer, T5Tokenizer]:
    """The embedded model's own vocabularies, at the lengths that the big pipelines use."""
    clip = CLIPTokenizer.from_pretrained(demo_folder() / "tokenizer")
    clip.model_max_length = length
    return clip, T5Tokenizer.from_pretrained(demo_folder() / "tokenizer_2")


def flux_pipeline(**changes: Any) -> FluxPipeline:
    clip, t5 = tokenizers()
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_vae(),
        text_encoder=_clip(CLIPTextModel, POOLED, len(clip)),
        tokenizer=clip,
        text_encoder_2=_t5(len(t5)),
        tokenizer_2=t5,
        transformer=flux_transformer(**changes),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sd3_pipeline(transformer: Callable[[], Any] = sd3_medium_transformer) -> StableDiffusion3Pipeline:
    clip, t5 = tokenizers()
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_vae(),
        text_encoder=_clip(CLIPTextModelWithProjection, 8, len(clip)),
        tokenizer=clip,
        text_encoder_2=_clip(CLIPTextModelWithProjection, 10, len(clip)),
        tokenizer_2=clip,
        text_encoder_3=_t5(len(t5)),
        tokenizer_3=t5,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


FAMILIES = {
    family.name: family
    for family in (
        Family("flux", flux_transformer, flux_call, flux_pipeline),
        Family("sd3.5-large", sd3_transformer, sd3_call, lambda: sd3_pipeline(sd3_transformer)),
        Family("sd3.5-medium", sd3_medium_transformer, sd3_call, sd3_pipeline),
        Family("sd3", sd30_transformer, sd3_call, lambda: sd3_pipeline(sd30_transformer)),
    )
}
