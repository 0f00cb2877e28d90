"""Tiny pipelines of families that are served through their own blocks, with random weights."""

# pyright: reportArgumentType=false
# Libraries annotate tuples of any length as tuples of one, and tokenizers as one class.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    BriaPipeline,
    CogVideoXDDIMScheduler,
    CogView3PlusPipeline,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    Lumina2Pipeline,
    OvisImagePipeline,
    ZImagePipeline,
)
from transformers import (
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3Model,
)

from specimens.reentry import REENTRY_SPECIMENS
from tiny_models import _LLM, _clip, _t5, quiet, tiny_vae, tokenizers, word_tokenizer


@dataclass(frozen=True)
class Tiny:
    """A pipeline, the shape of one picture's latents on the 4 x 6 grid, options with and without guidance."""

    transformer: str
    pipeline: Callable[[], Any]
    latents: tuple[int, ...] = (4, 8, 12)
    packed: bool = False
    guided: dict[str, Any] = field(default_factory=lambda: {"guidance_scale": 4.0})
    plain: dict[str, Any] = field(default_factory=lambda: {"guidance_scale": 1.0})


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
    config: dict[str, Any] = {**_LLM, "vocab_size": len(words), "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 0}
    text_encoder = Gemma2Model(Gemma2Config(**config)).eval()
    transformer = _transformer("Lumina2Transformer2DModel")
    return quiet(
        Lumina2Pipeline(transformer, FlowMatchEulerDiscreteScheduler(), tiny_vae((8,) * 4), text_encoder, words)
    )


def cogview3_pipeline() -> CogView3PlusPipeline:
    t5 = tokenizers()[1]
    scheduler = CogVideoXDDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing")
    transformer = _transformer("CogView3PlusTransformer2DModel")
    return quiet(CogView3PlusPipeline(t5, _t5(len(t5)), tiny_vae((8, 8, 8, 8)), transformer, scheduler))


def hidream_pipeline() -> HiDreamImagePipeline:
    clip, t5 = tokenizers()
    words = word_tokenizer()
    words.eos_token = "<|im_end|>"  # the pipeline pads with it
    clips = [_clip(CLIPTextModelWithProjection, width, len(clip)) for width in (8, 10)]
    torch.manual_seed(3)
    config: dict[str, Any] = {
        **_LLM,
        "hidden_size": 12,
        "head_dim": 6,
        "num_hidden_layers": 4,
        "attn_implementation": "eager",
    }
    llama = LlamaForCausalLM(LlamaConfig(**config, vocab_size=len(words))).eval()
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    transformer = _transformer("HiDreamImageTransformer2DModel")
    encoders = (clips[0], clip, clips[1], clip, _t5(len(t5)), t5, llama, words)
    pipeline = quiet(HiDreamImagePipeline(scheduler, tiny_vae(), *encoders, transformer))
    pipeline.default_sample_size = 9.8  # it paints this area whatever it is asked for: here that of the 4 x 6 grid
    return pipeline


TINY = {
    "hidream": Tiny("HiDreamImageTransformer2DModel", hidream_pipeline),
    "bria": Tiny("BriaTransformer2DModel", bria_pipeline, packed=True),
    "ovis-image": Tiny("OvisImageTransformer2DModel", ovis_pipeline, packed=True),
    "z-image": Tiny("ZImageTransformer2DModel", z_image_pipeline),
    "lumina2": Tiny("Lumina2Transformer2DModel", lumina2_pipeline),
    "cogview3": Tiny("CogView3PlusTransformer2DModel", cogview3_pipeline),
}
