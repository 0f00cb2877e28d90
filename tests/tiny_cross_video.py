"""Tiny random pipelines of the video classes whose text is only keys and values of cross attention."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AllegroPipeline,
    AllegroTransformer3DModel,
    AnyFlowFARPipeline,
    AnyFlowFARTransformer3DModel,
    AnyFlowPipeline,
    AnyFlowTransformer3DModel,
    AutoencoderKLAllegro,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMapEulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeliosPipeline,
    HeliosScheduler,
    HeliosTransformer3DModel,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
    Kandinsky6TI2VAPipeline,
    Kandinsky6Transformer3DModel,
    LattePipeline,
    LatteTransformer3DModel,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    SanaVideoPipeline,
    SanaVideoTransformer3DModel,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder
from transformers import CLIPTextModel, Gemma3TextModel

from specimens.random_models import randomize
from tiny_cross_parts import FLOW, HEAD, HEADS, TEXT, gemma, louder, scheduler_of, t5
from tiny_models import clip_text, quiet, qwen_text, tiny_vae, tokenizers

_WAN: dict[str, Any] = {
    "num_attention_heads": HEADS,
    "attention_head_dim": HEAD,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": TEXT,
    "freq_dim": 16,
    "ffn_dim": 24,
    "num_layers": 3,
}
"""The transformer of Wan and of those made from it."""
_KANDINSKY: dict[str, Any] = {
    "in_visual_dim": 4,
    "out_visual_dim": 4,
    "model_dim": 24,
    "ff_dim": 24,
    "time_dim": 16,
    "in_text_dim": TEXT,
    "in_text_dim2": 8,
    "num_text_blocks": 1,
    "num_visual_blocks": 3,
    "axes_dims": (4, 4, 4),
}


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
        **_WAN,
    )
    words: Any = tokenizers()[1]
    return quiet(SkyReelsV2Pipeline(words, t5(), louder(transformer), wan_vae(), UniPCMultistepScheduler(**FLOW)))


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
        **_WAN,
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


def wan_vace_pipeline() -> WanVACEPipeline:
    torch.manual_seed(0)
    transformer = WanVACETransformer3DModel(
        **_WAN,
        vace_layers=[0, 2],
        vace_in_channels=12,  # two latents and a mask, which has the pixels of a latent as channels
    )
    words: Any = tokenizers()[1]
    text: Any = t5()
    return quiet(WanVACEPipeline(words, text, wan_vae(), FlowMatchEulerDiscreteScheduler(), louder(transformer)))


def any_flow_pipeline() -> AnyFlowPipeline:
    torch.manual_seed(0)
    transformer = AnyFlowTransformer3DModel(
        **_WAN,
    )
    words: Any = tokenizers()[1]
    text: Any = t5()
    return quiet(AnyFlowPipeline(words, text, louder(transformer), wan_vae(), FlowMapEulerDiscreteScheduler(shift=5.0)))


def any_flow_far_pipeline() -> AnyFlowFARPipeline:
    torch.manual_seed(0)
    transformer = AnyFlowFARTransformer3DModel(**_WAN, full_chunk_limit=2)
    words: Any = tokenizers()[1]
    text: Any = t5()
    scheduler = FlowMapEulerDiscreteScheduler(shift=5.0)
    return quiet(AnyFlowFARPipeline(words, text, louder(transformer), wan_vae(), scheduler))


def helios_pipeline() -> HeliosPipeline:
    torch.manual_seed(0)
    transformer = HeliosTransformer3DModel(
        **_WAN,
        rope_dim=(4, 4, 4),
    )
    words: Any = tokenizers()[1]
    text: Any = t5()
    scheduler = scheduler_of(HeliosScheduler, stages=1, stage_range=[0, 1])
    return quiet(HeliosPipeline(words, text, wan_vae(), scheduler, louder(transformer)))


def kandinsky5_transformer(**changes: Any) -> Kandinsky5Transformer3DModel:
    torch.manual_seed(0)
    return louder(Kandinsky5Transformer3DModel(**_KANDINSKY, **changes), "cross_attention")


def kandinsky_text() -> dict[str, Any]:
    """The text encoders of a pipeline and their tokenizers, by component."""
    clip_words = tokenizers()[0]
    clip = clip_text(CLIPTextModel, 8, len(clip_words), projection=8)
    return {**qwen_text(), "text_encoder_2": clip, "tokenizer_2": clip_words}


def hunyuan_video_vae() -> AutoencoderKLHunyuanVideo:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 2}
    return AutoencoderKLHunyuanVideo(latent_channels=4, **shape).eval()


def kandinsky5_pipeline() -> Kandinsky5T2VPipeline:
    made = Kandinsky5T2VPipeline(
        transformer=kandinsky5_transformer(visual_cond=True),
        vae=hunyuan_video_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        **kandinsky_text(),
    )
    return quiet(made)


def kandinsky6_pipeline() -> Kandinsky6TI2VAPipeline:
    """Without the parts that make sound."""
    torch.manual_seed(0)
    audio: dict[str, Any] = {"in_audio_dim": 4, "out_audio_dim": 4, "axes_dims_a": (4, 4, 4)}
    transformer = Kandinsky6Transformer3DModel(**_KANDINSKY, **audio)
    made = Kandinsky6TI2VAPipeline(
        transformer=louder(transformer, "cross_attention"),
        vae=hunyuan_video_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        **kandinsky_text(),
    )
    return quiet(made)


def ltx2_pipeline() -> LTX2Pipeline:
    torch.manual_seed(0)
    transformer = LTX2VideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=HEADS,
        attention_head_dim=HEAD,
        cross_attention_dim=HEADS * HEAD,
        cross_attn_mod=True,
        gated_attn=True,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=HEADS,
        audio_attention_head_dim=8,
        audio_cross_attention_dim=HEADS * 8,
        audio_cross_attn_mod=True,
        num_layers=3,
        caption_channels=TEXT,
    )
    connectors = LTX2TextConnectors(
        caption_channels=TEXT,
        text_proj_in_factor=3,
        video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=TEXT // 2,
        video_connector_num_layers=1,
        audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=TEXT // 2,
        audio_connector_num_layers=1,
    )
    vae = AutoencoderKLLTX2Video(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 4,
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    ).eval()
    vae.latents_mean.uniform_(-0.2, 0.2)
    vae.latents_std.uniform_(0.8, 1.2)
    words, text = gemma(Gemma3TextModel)
    made = LTX2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        audio_vae=AutoencoderKLLTX2Audio(
            base_channels=4, ch_mult=(1, 1, 1), num_res_blocks=1, latent_channels=1, mel_bins=16
        ),
        text_encoder=text,
        tokenizer=words,
        connectors=randomize(connectors),
        transformer=louder(transformer),
        vocoder=LTX2Vocoder(
            in_channels=8,
            hidden_channels=4,
            upsample_kernel_sizes=[4],
            upsample_factors=[2],
            resnet_kernel_sizes=[3],
            resnet_dilations=[[1]],
        ),
    )
    return quiet(made)


def allegro_pipeline() -> AllegroPipeline:
    torch.manual_seed(0)
    transformer = AllegroTransformer3DModel(
        num_attention_heads=HEADS,
        attention_head_dim=HEAD,
        num_layers=3,
        cross_attention_dim=HEADS * HEAD,
        sample_height=32,
        sample_width=32,
        caption_channels=TEXT,
    )
    vae = AutoencoderKLAllegro(
        down_block_types=("AllegroDownBlock3D",) * 2,
        up_block_types=("AllegroUpBlock3D",) * 2,
        block_out_channels=(8, 8),
        temporal_downsample_blocks=(True, True),
        temporal_upsample_blocks=(True, True),
        layers_per_block=1,
        norm_num_groups=2,
    ).eval()
    words: Any = tokenizers()[1]
    scheduler = scheduler_of(EulerAncestralDiscreteScheduler, beta_schedule="scaled_linear")
    return quiet(AllegroPipeline(words, t5(), vae, louder(transformer), scheduler))
