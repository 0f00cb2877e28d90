"""Tiny pipelines of families that are served through their own blocks, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo15,
    BriaPipeline,
    CogVideoXDDIMScheduler,
    CogView3PlusPipeline,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    Lumina2Pipeline,
    OvisImagePipeline,
    ZImagePipeline,
)
from diffusers.guiders import ClassifierFreeGuidance
from transformers import (
    ByT5Tokenizer,
    Gemma2Config,
    Gemma2Model,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    Qwen3Config,
    Qwen3Model,
)

from conceptlens.adapters._random_models import TEXT, randomize
from conceptlens.adapters._reentry_specimens import REENTRY_SPECIMENS
from tiny_models import _LLM, _t5, quiet, tiny_vae, tokenizers, word_tokenizer


@dataclass(frozen=True)
class Tiny:
    """A pipeline with the shape of one picture's latents on the 4 x 6 grid and its options with and without guidance."""

    pipeline: Callable[[], Any]
    latents: tuple[int, ...] = (4, 8, 12)
    packed: bool = False
    guided: dict[str, Any] = field(default_factory=lambda: {"guidance_scale": 4.0})
    plain: dict[str, Any] = field(default_factory=lambda: {"guidance_scale": 1.0})
    guide: Callable[[Any, float], None] | None = None
    video: bool = False


def _transformer(kind: str) -> Any:
    return REENTRY_SPECIMENS[kind][0]()


def bria_pipeline() -> BriaPipeline:
    t5 = tokenizers()[1]
    scheduler = FlowMatchEulerDiscreteScheduler()
    return quiet(BriaPipeline(_transformer("BriaTransformer2DModel"), scheduler, tiny_vae(), _t5(len(t5)), t5))


def _qwen3(words: Any) -> Qwen3Model:
    torch.manual_seed(3)
    return Qwen3Model(Qwen3Config(**_LLM, vocab_size=len(words))).eval()


def ovis_pipeline() -> OvisImagePipeline:
    words = word_tokenizer()
    transformer = _transformer("OvisImageTransformer2DModel")
    return quiet(OvisImagePipeline(FlowMatchEulerDiscreteScheduler(), tiny_vae(), _qwen3(words), words, transformer))


def z_image_pipeline() -> ZImagePipeline:
    words = word_tokenizer()
    transformer = _transformer("ZImageTransformer2DModel")
    return quiet(ZImagePipeline(FlowMatchEulerDiscreteScheduler(), tiny_vae(), _qwen3(words), words, transformer))


def lumina2_pipeline() -> Lumina2Pipeline:
    words = word_tokenizer()
    torch.manual_seed(3)
    config = Gemma2Config(**_LLM, vocab_size=len(words), pad_token_id=1, bos_token_id=0, eos_token_id=0)
    text_encoder = Gemma2Model(config).eval()
    transformer = _transformer("Lumina2Transformer2DModel")
    return quiet(
        Lumina2Pipeline(transformer, FlowMatchEulerDiscreteScheduler(), tiny_vae((8,) * 4), text_encoder, words)
    )


def cogview3_pipeline() -> CogView3PlusPipeline:
    t5 = tokenizers()[1]
    scheduler = CogVideoXDDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing")
    transformer = _transformer("CogView3PlusTransformer2DModel")
    return quiet(CogView3PlusPipeline(t5, _t5(len(t5)), tiny_vae((8, 8, 8, 8)), transformer, scheduler))


def hunyuan_video15_pipeline() -> HunyuanVideo15Pipeline:
    words, glyphs = word_tokenizer(), ByT5Tokenizer()
    torch.manual_seed(3)
    rope = {"rope_type": "default", "mrope_section": [1, 2, 2], "rope_theta": 10000.0}
    config = Qwen2_5_VLTextConfig(**{**_LLM, "num_hidden_layers": 3}, vocab_size=len(words), rope_parameters=rope)
    text_encoder = Qwen2_5_VLTextModel(config).eval()
    shape: dict[str, Any] = {
        "num_layers": 3,
        "attention_head_dim": 24,
        "num_attention_heads": 2,
        "num_refiner_layers": 1,
    }
    wide: dict[str, Any] = {"text_embed_dim": TEXT, "text_embed_2_dim": TEXT, "image_embed_dim": 8}
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9, out_channels=4, target_size=64, rope_axes_dim=(4, 10, 10), **shape, **wide
    )
    vae = AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        spatial_compression_ratio=2,
        temporal_compression_ratio=2,
    ).eval()
    scheduler, guider = FlowMatchEulerDiscreteScheduler(), ClassifierFreeGuidance(guidance_scale=4.0)
    made = HunyuanVideo15Pipeline(
        text_encoder, words, randomize(transformer), vae, scheduler, _t5(len(glyphs)), glyphs, guider
    )
    made.tokenizer_max_length, made.tokenizer_2_max_length = 120, 16
    made.prompt_template_encode_start_idx = 40
    return quiet(made)


def _set_guidance(pipeline: Any, scale: float) -> None:
    pipeline.guider = ClassifierFreeGuidance(guidance_scale=scale)


TINY = {
    "bria": Tiny(bria_pipeline, packed=True),
    "ovis-image": Tiny(ovis_pipeline, packed=True),
    "z-image": Tiny(z_image_pipeline),
    "lumina2": Tiny(lumina2_pipeline),
    "cogview3": Tiny(cogview3_pipeline),
    "hunyuan-video-1.5": Tiny(
        hunyuan_video15_pipeline, (4, 4, 6), guided={}, plain={}, guide=_set_guidance, video=True
    ),
}
