"""Tiny random models of the classes whose blocks are entered again, with the arguments of a call; see `families`."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    BriaFiboTransformer2DModel,
    BriaTransformer2DModel,
    CogView3PlusTransformer2DModel,
    ConsisIDTransformer3DModel,
    EasyAnimateTransformer3DModel,
    ErnieImageTransformer2DModel,
    Flux3Transformer2DModel,
    GlmImageTransformer2DModel,
    HiDreamImageTransformer2DModel,
    HunyuanImageTransformer2DModel,
    HunyuanVideoFramepackTransformer3DModel,
    Ideogram4Transformer2DModel,
    JoyImageEditPlusTransformer3DModel,
    JoyImageEditTransformer3DModel,
    Krea2Transformer2DModel,
    LongCatImageTransformer2DModel,
    Lumina2Transformer2DModel,
    MiniMaxH3Transformer3DModel,
    MotifVideoTransformer3DModel,
    OvisImageTransformer2DModel,
    ZImageTransformer2DModel,
)

from specimens import reentry_calls as calls
from specimens.random_models import TEXT, Specimen, random_latents, randomize

_HEADS = {"attention_head_dim": 24, "num_attention_heads": 2, "num_layers": 3}
_FLUX: dict[str, Any] = {**_HEADS, "num_single_layers": 1, "in_channels": 16, "joint_attention_dim": TEXT}
_FLUX["axes_dims_rope"] = [4, 10, 10]
_HUNYUAN: dict[str, Any] = {**_HEADS, "num_refiner_layers": 1, "text_embed_dim": TEXT, "in_channels": 4}
_HUNYUAN["out_channels"] = 4
_ROPE3 = (4, 10, 10)


def _model(kind: Any, **config: Any) -> Any:
    torch.manual_seed(0)
    return randomize(kind(**config))


REENTRY_SPECIMENS: dict[str, Specimen] = {
    "BriaTransformer2DModel": (lambda: _model(BriaTransformer2DModel, **_FLUX), calls.packed),
    "BriaFiboTransformer2DModel": (
        lambda: _model(BriaFiboTransformer2DModel, **_FLUX, text_encoder_dim=12),
        calls.layered,
    ),
    "HiDreamImageTransformer2DModel": (
        lambda: _model(
            HiDreamImageTransformer2DModel,
            **_HEADS,
            num_single_layers=1,
            patch_size=2,
            in_channels=4,
            caption_channels=[TEXT, 12],
            text_emb_dim=12,
            axes_dims_rope=(8, 8, 8),
            max_resolution=(16, 16),
            llama_layers=[0, 1, 3, 3],
        ),
        calls.hidream,
    ),
    "LongCatImageTransformer2DModel": (
        lambda: _model(LongCatImageTransformer2DModel, **_FLUX, pooled_projection_dim=12),
        calls.placed,
    ),
    "OvisImageTransformer2DModel": (
        lambda: _model(OvisImageTransformer2DModel, **_FLUX, out_channels=16),
        calls.packed,
    ),
    "HunyuanImageTransformer2DModel": (
        lambda: _model(
            HunyuanImageTransformer2DModel,
            **_HUNYUAN,
            num_single_layers=1,
            rope_axes_dim=(12, 12),
            text_embed_2_dim=16,
        ),
        lambda batch, rows, cols: calls.second_text(calls.masked(calls.plane(batch, rows, cols, patch=1))),
    ),
    "HunyuanVideoFramepackTransformer3DModel": (
        lambda: _model(
            HunyuanVideoFramepackTransformer3DModel,
            **_HUNYUAN,
            num_single_layers=1,
            pooled_projection_dim=12,
            rope_axes_dim=_ROPE3,
            has_image_proj=True,
            has_clean_x_embedder=True,
            image_proj_dim=8,
        ),
        calls.framepack,
    ),
    "MotifVideoTransformer3DModel": (
        lambda: _model(
            MotifVideoTransformer3DModel,
            **{name: value for name, value in _HUNYUAN.items() if name != "num_refiner_layers"},
            num_single_layers=1,
            rope_axes_dim=_ROPE3,
        ),
        lambda batch, rows, cols: calls.masked(calls.video(batch, rows, cols)),
    ),
    "EasyAnimateTransformer3DModel": (
        lambda: _model(
            EasyAnimateTransformer3DModel,
            **{**_HEADS, "attention_head_dim": 32},
            mmdit_layers=3,
            in_channels=4,
            out_channels=4,
            patch_size=2,
            time_embed_dim=12,
            text_embed_dim=TEXT,
        ),
        calls.video,
    ),
    "JoyImageEditTransformer3DModel": (
        lambda: _model(
            JoyImageEditTransformer3DModel,
            in_channels=4,
            hidden_size=48,
            num_attention_heads=2,
            text_dim=TEXT,
            num_layers=3,
            rope_dim_list=[4, 10, 10],
        ),
        lambda batch, rows, cols: {
            **calls.plane(batch, rows, cols),
            "hidden_states": random_latents(batch, 2, 4, 1, 2 * rows, 2 * cols),
        },
    ),
    "JoyImageEditPlusTransformer3DModel": (
        lambda: _model(
            JoyImageEditPlusTransformer3DModel,
            in_channels=4,
            hidden_size=48,
            num_attention_heads=2,
            text_dim=TEXT,
            num_layers=3,
            rope_dim_list=[4, 10, 10],
        ),
        calls.joy_plus,
    ),
    "CogView3PlusTransformer2DModel": (
        lambda: _model(
            CogView3PlusTransformer2DModel,
            **_HEADS,
            in_channels=4,
            out_channels=4,
            text_embed_dim=TEXT,
            time_embed_dim=12,
            condition_dim=4,
            pos_embed_max_size=16,
            sample_size=16,
        ),
        calls.cogview3,
    ),
    "ConsisIDTransformer3DModel": (
        lambda: _model(
            ConsisIDTransformer3DModel,
            **{**_HEADS, "attention_head_dim": 32},
            in_channels=4,
            out_channels=4,
            text_embed_dim=TEXT,
            time_embed_dim=12,
            max_text_seq_length=16,
            sample_width=12,
            sample_height=8,
            sample_frames=5,
        ),
        calls.consisid,
    ),
    "GlmImageTransformer2DModel": (
        lambda: _model(
            GlmImageTransformer2DModel,
            **{**_HEADS, "attention_head_dim": 32},
            in_channels=4,
            out_channels=4,
            text_embed_dim=TEXT,
            time_embed_dim=12,
            condition_dim=4,
            prior_vq_quantizer_codebook_size=11,
        ),
        calls.glm,
    ),
    "Flux3Transformer2DModel": (
        lambda: _model(
            Flux3Transformer2DModel,
            **{**_FLUX, "num_layers": 1, "num_single_layers": 3, "axes_dims_rope": (4, 8, 8, 4)},
            cond_in_channels=16,
            timestep_channels=16,
        ),
        calls.flux3,
    ),
    "ZImageTransformer2DModel": (
        lambda: _model(
            ZImageTransformer2DModel,
            in_channels=4,
            dim=48,
            n_layers=3,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=TEXT,
            axes_dims=[4, 10, 10],
            axes_lens=[256, 64, 64],
        ),
        calls.z_image,
    ),
    "Lumina2Transformer2DModel": (
        lambda: _model(
            Lumina2Transformer2DModel,
            in_channels=4,
            hidden_size=48,
            num_layers=3,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=8,
            axes_dim_rope=(4, 10, 10),
            cap_feat_dim=TEXT,
        ),
        lambda batch, rows, cols: {**calls.masked(calls.plane(batch, rows, cols)), "timestep": calls.times(batch, 0.4)},
    ),
    "Krea2Transformer2DModel": (
        lambda: _model(
            Krea2Transformer2DModel,
            **_HEADS,
            in_channels=16,
            num_key_value_heads=1,
            intermediate_size=48,
            timestep_embed_dim=16,
            text_hidden_dim=24,
            num_text_layers=2,
            text_num_attention_heads=2,
            text_num_key_value_heads=2,
            text_intermediate_size=24,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(4, 10, 10),
        ),
        calls.without(calls.krea2, "img_ids", "txt_ids"),
    ),
    "Ideogram4Transformer2DModel": (
        lambda: _model(
            Ideogram4Transformer2DModel,
            in_channels=16,
            num_layers=3,
            attention_head_dim=24,
            num_attention_heads=2,
            intermediate_size=48,
            adaln_dim=16,
            llm_features_dim=TEXT,
            mrope_section=(4, 4, 4),
        ),
        calls.one_sequence,
    ),
    "MiniMaxH3Transformer3DModel": (
        lambda: _model(
            MiniMaxH3Transformer3DModel,
            num_attention_heads=2,
            attention_head_dim=24,
            hidden_size=32,
            num_layers=3,
            num_refiner_layers=1,
            ffn_dim=24,
            in_channels=4,
            audio_in_channels=6,
            text_dim=TEXT,
            freq_dim=16,
            time_embed_hidden_dim=16,
            time_embed_dim=12,
            rope_freq_dim=4,
        ),
        calls.video_and_sound,
    ),
    "ErnieImageTransformer2DModel": (
        lambda: _model(
            ErnieImageTransformer2DModel,
            hidden_size=48,
            num_attention_heads=2,
            num_layers=3,
            ffn_hidden_size=48,
            in_channels=8,
            out_channels=8,
            text_in_dim=TEXT,
            rope_axes_dim=(4, 10, 10),
        ),
        calls.ernie,
    ),
}
