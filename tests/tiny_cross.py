"""Tiny random pipelines of the real classes whose text is only keys and values of cross attention."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    LattePipeline,
    LatteTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SanaVideoPipeline,
    SanaVideoTransformer3DModel,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import BertConfig, BertModel, BertTokenizer, Gemma2Config, Gemma2Model, T5Config, T5EncoderModel

from conceptlens.adapters._random_models import randomize
from tiny_models import quiet, tiny_vae, tokenizers

TEXT, HEADS, HEAD = 20, 2, 12
"""Width of the encoded text; heads and their width. Wan's rotation needs a multiple of six."""
SIDE = 64
"""Side in pixels of what the tiny pipelines paint and read."""


def t5(width: int = TEXT) -> T5EncoderModel:
    torch.manual_seed(3)
    config = T5Config(
        vocab_size=len(tokenizers()[1]), d_model=width, d_kv=8, d_ff=24, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    return T5EncoderModel(config).eval()


def louder(transformer: Any, attention: str = "attn2") -> Any:
    """Random weights everywhere; maps of small ones are all alike, so cross attention gets larger ones."""
    randomize(transformer)
    for name, weight in transformer.named_parameters():
        if f"{attention}.to_q" in name or f"{attention}.to_k" in name:
            weight.data *= 3
    return transformer


def pixart_transformer(**changes: Any) -> PixArtTransformer2DModel:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "num_attention_heads": HEADS,
        "attention_head_dim": HEAD,
        "num_layers": 3,
        "in_channels": 4,
    }
    text: dict[str, Any] = {"cross_attention_dim": HEADS * HEAD, "caption_channels": TEXT}
    return louder(PixArtTransformer2DModel(**{**shape, **text, "out_channels": 8, "sample_size": 32, **changes}))


def pixart_pipeline(**changes: Any) -> PixArtSigmaPipeline:
    scheduler = DPMSolverMultistepScheduler()
    return quiet(PixArtSigmaPipeline(tokenizers()[1], t5(), tiny_vae((8, 8)), pixart_transformer(**changes), scheduler))


def pixart_alpha_pipeline() -> PixArtAlphaPipeline:
    """With the resolution and the aspect ratio as further conditions, as the one of 1024 pixels has them."""
    transformer = pixart_transformer(sample_size=128, attention_head_dim=12, use_additional_conditions=True)
    return quiet(PixArtAlphaPipeline(tokenizers()[1], t5(), tiny_vae(), transformer, DPMSolverMultistepScheduler()))


def latte_pipeline() -> LattePipeline:
    torch.manual_seed(0)
    transformer = LatteTransformer3DModel(
        num_attention_heads=HEADS,
        attention_head_dim=HEAD,
        in_channels=4,
        out_channels=8,
        num_layers=3,
        cross_attention_dim=HEADS * HEAD,
        attention_bias=True,
        sample_size=16,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        caption_channels=TEXT,
        video_length=2,
    )
    scheduler: Any = DDPMScheduler(beta_schedule="linear")
    return quiet(LattePipeline(tokenizers()[1], t5(), tiny_vae(), louder(transformer), scheduler))


def gemma() -> tuple[Any, Gemma2Model]:
    words = tokenizers()[1]
    words.model_max_length = 4096  # Sana's instruction comes first
    torch.manual_seed(3)
    config = Gemma2Config(
        vocab_size=len(words),
        hidden_size=TEXT,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=2048,
        pad_token_id=0,
    )
    return words, Gemma2Model(config).eval()


FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


def sana_video_pipeline() -> SanaVideoPipeline:
    torch.manual_seed(0)
    transformer = SanaVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=HEADS,
        attention_head_dim=HEAD,
        num_layers=3,
        num_cross_attention_heads=HEADS,
        cross_attention_head_dim=HEAD,
        cross_attention_dim=HEADS * HEAD,
        caption_channels=TEXT,
    )
    return quiet(SanaVideoPipeline(*gemma(), wan_vae(), louder(transformer), DPMSolverMultistepScheduler(**FLOW)))


def sky_reels_pipeline() -> SkyReelsV2Pipeline:
    torch.manual_seed(0)
    transformer = SkyReelsV2Transformer3DModel(
        num_attention_heads=HEADS,
        attention_head_dim=HEAD,
        in_channels=4,
        out_channels=4,
        text_dim=TEXT,
        freq_dim=16,
        ffn_dim=24,
        num_layers=3,
    )
    words: Any = tokenizers()[1]
    return quiet(SkyReelsV2Pipeline(words, t5(), louder(transformer), wan_vae(), UniPCMultistepScheduler(**FLOW)))


def sana_pipeline() -> SanaPipeline:
    torch.manual_seed(0)
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=4,
        attention_head_dim=6,
        num_layers=3,
        num_cross_attention_heads=HEADS,
        cross_attention_head_dim=HEAD,
        cross_attention_dim=24,
        caption_channels=TEXT,
        sample_size=32,
        qk_norm="rms_norm_across_heads",
        timestep_scale=0.5,
    )
    shape: dict[str, Any] = {"block_out_channels": (8, 8), "layers_per_block": (1, 1), "qkv_multiscales": ((), (5,))}
    shape |= {"block_types": ("ResBlock", "EfficientViTBlock")}
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        scaling_factor=0.4,
        decoder_norm_types="rms_norm",
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in shape.items()},
    ).eval()
    return quiet(SanaPipeline(*gemma(), vae, louder(transformer), DPMSolverMultistepScheduler(**FLOW)))


def hunyuan_dit_pipeline() -> HunyuanDiTPipeline:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "house", "boat", "tree", "sun", "sky"]
    bert_words = BertTokenizer(vocab={word: number for number, word in enumerate(words)}, model_max_length=77)
    torch.manual_seed(3)
    bert = BertConfig(
        vocab_size=len(words), hidden_size=TEXT, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
    )
    torch.manual_seed(0)
    transformer = HunyuanDiT2DModel(
        num_attention_heads=HEADS,
        attention_head_dim=16,
        in_channels=4,
        patch_size=2,
        sample_size=16,
        hidden_size=32,
        num_layers=4,
        cross_attention_dim=TEXT,
        cross_attention_dim_t5=16,
        pooled_projection_dim=8,
    )
    pipeline = HunyuanDiTPipeline(
        vae=tiny_vae((8, 8, 8, 8)),
        text_encoder=randomize(BertModel(bert)),
        tokenizer=bert_words,
        transformer=louder(transformer),
        scheduler=DDPMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=t5(16),
        tokenizer_2=tokenizers()[1],
    )
    return quiet(pipeline)


def wan_vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[0.1, -0.1, 0.2, 0.0],
        latents_std=[1.0, 1.2, 0.8, 1.1],
        scale_factor_temporal=2,
        scale_factor_spatial=2,
    ).eval()


def wan_pipeline(**changes: Any) -> WanPipeline:
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=HEADS,
        attention_head_dim=HEAD,
        in_channels=4,
        out_channels=4,
        text_dim=TEXT,
        freq_dim=16,
        ffn_dim=24,
        num_layers=3,
        **changes,
    )
    words: Any = tokenizers()[1]
    text: Any = t5()
    return quiet(WanPipeline(words, text, wan_vae(), FlowMatchEulerDiscreteScheduler(), louder(transformer)))


def ltx_pipeline() -> LTXPipeline:
    torch.manual_seed(0)
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=HEADS,
        attention_head_dim=HEAD,
        cross_attention_dim=HEADS * HEAD,
        num_layers=3,
        caption_channels=TEXT,
    )
    shape: dict[str, Any] = {"block_out_channels": (8, 8, 8, 8), "decoder_block_out_channels": (8, 8, 8, 8)}
    vae = AutoencoderKLLTXVideo(
        latent_channels=8, layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5, **shape
    ).eval()
    vae.latents_mean.uniform_(-0.2, 0.2)
    vae.latents_std.uniform_(0.8, 1.2)
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return quiet(LTXPipeline(scheduler, vae, t5(), tokenizers()[1], louder(transformer)))


PIPELINES: dict[str, Callable[[], Any]] = {
    "pixart": pixart_pipeline,
    "pixart-alpha": pixart_alpha_pipeline,
    "sana": sana_pipeline,
    "hunyuan-dit": hunyuan_dit_pipeline,
    "wan": wan_pipeline,
    "ltx": ltx_pipeline,
    "latte": latte_pipeline,
    "sana-video": sana_video_pipeline,
    "sky-reels": sky_reels_pipeline,
}
"""By family."""


def saved(name: str, folder: Path, side: int = SIDE) -> Path:
    """An ordinary folder of a tiny pipeline that paints and reads squares of `side` pixels."""
    PIPELINES[name]().save_pretrained(folder)
    (folder / "conceptlens.json").write_text(json.dumps({"generate": {"height": side, "width": side}}))
    return folder


METHODS_TINY_CROSS: dict[str, Callable[[Path], tuple[str, dict[str, Any]]]] = {
    "concept-cross-attention": lambda folder: (str(saved("pixart", folder / "pixart")), {"noise": 0.4}),
}
"""By the name of a method: writes a tiny model into a folder and gives the arguments of its `load`."""
