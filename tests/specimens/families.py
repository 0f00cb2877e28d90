"""One small random model per family, with the arguments of a call: the real diffusers classes, a blink on a CPU.

The contract tests are made of them, and what they establish is what `doctor` says of a class.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AuraFlowTransformer2DModel,
    ChromaTransformer2DModel,
    CogVideoXTransformer3DModel,
    CogView4Transformer2DModel,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoTransformer3DModel,
    MochiTransformer3DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
)
from diffusers.models.embeddings import get_3d_rotary_pos_embed

from specimens.random_models import LENGTH, POOLED, TEXT, Specimen, random_latents, randomize, text_rows


def flux_transformer(**changes: Any) -> FluxTransformer2DModel:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "num_layers": 4,
        "num_single_layers": 1,
        "attention_head_dim": 24,
        "num_attention_heads": 2,
    }
    config: dict[str, Any] = {
        "in_channels": 16,
        "joint_attention_dim": TEXT,
        "pooled_projection_dim": POOLED,
        "guidance_embeds": True,
    }
    return randomize(FluxTransformer2DModel(**{"axes_dims_rope": (4, 10, 10), **shape, **config, **changes}))


def sd3_transformer(**changes: Any) -> SD3Transformer2DModel:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "num_layers": 4,
        "attention_head_dim": 24,
        "num_attention_heads": 2,
        "caption_projection_dim": 48,
    }
    config: dict[str, Any] = {
        "joint_attention_dim": TEXT,
        "pooled_projection_dim": POOLED,
        "in_channels": 4,
        "out_channels": 4,
    }
    more: dict[str, Any] = {"sample_size": 16, "pos_embed_max_size": 24, "qk_norm": "rms_norm"}
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


def chroma_transformer() -> ChromaTransformer2DModel:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "num_layers": 4,
        "num_single_layers": 1,
        "attention_head_dim": 24,
        "num_attention_heads": 2,
    }
    table: dict[str, Any] = {"approximator_num_channels": 8, "approximator_hidden_dim": 16, "approximator_layers": 1}
    config: dict[str, Any] = {"in_channels": 16, "joint_attention_dim": TEXT, "axes_dims_rope": (4, 10, 10)}
    return randomize(ChromaTransformer2DModel(**shape, **table, **config))


def chroma_call(batch: int, rows: int, cols: int) -> dict[str, Any]:
    wanted = ("hidden_states", "encoder_hidden_states", "timestep", "img_ids", "txt_ids")
    return {name: value for name, value in flux_call(batch, rows, cols).items() if name in wanted}


def flux2_transformer(**changes: Any) -> Flux2Transformer2DModel:
    torch.manual_seed(0)
    # Half a head fills whole vector registers: a scalar tail would rotate with other roundings, which float64 can tell.
    shape: dict[str, Any] = {
        "num_layers": 4,
        "num_single_layers": 1,
        "attention_head_dim": 32,
        "num_attention_heads": 2,
    }
    config: dict[str, Any] = {"in_channels": 16, "joint_attention_dim": 3 * TEXT, "axes_dims_rope": (8, 8, 8, 8)}
    more: dict[str, Any] = {"timestep_guidance_channels": 16, "guidance_embeds": False}
    return randomize(Flux2Transformer2DModel(**{**shape, **config, **more, **changes}))


def flux2_dev_transformer() -> Flux2Transformer2DModel:
    return flux2_transformer(guidance_embeds=True)


def flux2_call(batch: int, rows: int, cols: int) -> dict[str, Any]:
    ids = torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(cols), torch.arange(1))
    text = torch.cartesian_prod(torch.arange(1), torch.arange(1), torch.arange(1), torch.arange(7))
    return {
        "hidden_states": random_latents(batch, rows * cols, 16),
        "encoder_hidden_states": text_rows(batch, 3 * TEXT),
        "timestep": torch.full((batch,), 0.6),
        "img_ids": ids[None].expand(batch, -1, -1),
        "txt_ids": text[None].expand(batch, -1, -1),
    }


def flux2_dev_call(batch: int, rows: int, cols: int) -> dict[str, Any]:
    return {**flux2_call(batch, rows, cols), "guidance": torch.full((batch,), 3.5)}


def qwen_transformer() -> QwenImageTransformer2DModel:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "num_layers": 4,
        "attention_head_dim": 32,
        "num_attention_heads": 2,
        "axes_dims_rope": (8, 12, 12),
    }
    return randomize(QwenImageTransformer2DModel(in_channels=16, out_channels=4, joint_attention_dim=TEXT, **shape))


def qwen_call(batch: int, rows: int, cols: int) -> dict[str, Any]:
    return {
        "hidden_states": random_latents(batch, rows * cols, 16),
        "encoder_hidden_states": text_rows(batch),
        "timestep": torch.full((batch,), 0.6),
        "img_shapes": [[(1, rows, cols)]] * batch,
    }


def aura_flow_transformer() -> AuraFlowTransformer2DModel:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "num_mmdit_layers": 4,
        "num_single_dit_layers": 1,
        "attention_head_dim": 24,
        "num_attention_heads": 2,
    }
    config: dict[str, Any] = {
        "joint_attention_dim": TEXT,
        "caption_projection_dim": 48,
        "sample_size": 16,
        "pos_embed_max_size": 576,
    }
    model = randomize(AuraFlowTransformer2DModel(**shape, **config))
    model.pos_embed.pos_embed.data *= 0.1  # learned positions; what is seen must outweigh where
    return model


def aura_flow_call(batch: int, rows: int, cols: int) -> dict[str, Any]:
    return {
        "hidden_states": random_latents(batch, 4, 2 * rows, 2 * cols),
        "encoder_hidden_states": text_rows(batch),
        "timestep": torch.full((batch,), 0.6),
    }


def cogview4_transformer() -> CogView4Transformer2DModel:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"num_layers": 4, "attention_head_dim": 24, "num_attention_heads": 2}
    config: dict[str, Any] = {
        "in_channels": 4,
        "out_channels": 4,
        "text_embed_dim": TEXT,
        "time_embed_dim": 12,
        "condition_dim": 4,
    }
    return randomize(CogView4Transformer2DModel(**shape, **config, rope_axes_dim=(16, 16), sample_size=16))


def cogview4_call(batch: int, rows: int, cols: int) -> dict[str, Any]:
    size = torch.tensor([[16.0 * rows, 16.0 * cols]]).expand(batch, -1)
    return {
        "hidden_states": random_latents(batch, 4, 2 * rows, 2 * cols),
        "encoder_hidden_states": text_rows(batch),
        "timestep": torch.full((batch,), 600.0),
        "original_size": size,
        "target_size": size,
        "crop_coords": torch.zeros(batch, 2),
    }


def cogvideox_transformer(**changes: Any) -> CogVideoXTransformer3DModel:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "num_layers": 4,
        "attention_head_dim": 32,
        "num_attention_heads": 2,
        "max_text_seq_length": LENGTH,
    }
    config: dict[str, Any] = {"in_channels": 4, "out_channels": 4, "text_embed_dim": TEXT, "time_embed_dim": 12}
    sample: dict[str, Any] = {"sample_width": 12, "sample_height": 8, "sample_frames": 5}
    return randomize(CogVideoXTransformer3DModel(**{**shape, **config, **sample, **changes}))


def cogvideox_5b_transformer() -> CogVideoXTransformer3DModel:
    return cogvideox_transformer(use_rotary_positional_embeddings=True)


def cogvideox_call(batch: int, rows: int, cols: int) -> dict[str, Any]:
    return {
        "hidden_states": random_latents(batch, 2, 4, 2 * rows, 2 * cols),
        "encoder_hidden_states": text_rows(batch, rows=LENGTH),
        "timestep": torch.full((batch,), 600),
    }


def cogvideox_5b_call(batch: int, rows: int, cols: int) -> dict[str, Any]:
    rotation = get_3d_rotary_pos_embed(32, ((0, 0), (rows, cols)), (rows, cols), 2)
    return {**cogvideox_call(batch, rows, cols), "image_rotary_emb": rotation}


def hunyuan_video_transformer() -> HunyuanVideoTransformer3DModel:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"num_layers": 4, "num_single_layers": 1, "num_refiner_layers": 1, "num_attention_heads": 2}
    config: dict[str, Any] = {
        "in_channels": 4,
        "out_channels": 4,
        "text_embed_dim": TEXT,
        "pooled_projection_dim": POOLED,
    }
    return randomize(
        HunyuanVideoTransformer3DModel(**shape, **config, attention_head_dim=32, rope_axes_dim=(8, 12, 12))
    )


def hunyuan_video_call(batch: int, rows: int, cols: int) -> dict[str, Any]:
    return {
        "hidden_states": random_latents(batch, 4, 2, 2 * rows, 2 * cols),
        "encoder_hidden_states": text_rows(batch),
        "encoder_attention_mask": torch.ones(batch, 7),
        "pooled_projections": torch.randn(batch, POOLED, generator=torch.Generator().manual_seed(4)),
        "timestep": torch.full((batch,), 600.0),
        "guidance": torch.full((batch,), 6000.0),
    }


def hunyuan_video15_transformer(**changes: Any) -> HunyuanVideo15Transformer3DModel:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"num_layers": 4, "attention_head_dim": 24, "num_attention_heads": 2}
    text: dict[str, Any] = {"text_embed_dim": TEXT, "text_embed_2_dim": TEXT, "image_embed_dim": 8}
    config: dict[str, Any] = {"in_channels": 9, "out_channels": 4, "num_refiner_layers": 1, "target_size": 64}
    return randomize(
        HunyuanVideo15Transformer3DModel(**{**shape, **text, **config, **changes}, rope_axes_dim=(4, 10, 10))
    )


def hunyuan_video15_call(batch: int, rows: int, cols: int) -> dict[str, Any]:
    return {
        "hidden_states": random_latents(batch, 9, 2, rows, cols),
        "encoder_hidden_states": text_rows(batch),
        "encoder_attention_mask": torch.ones(batch, 7),
        "encoder_hidden_states_2": text_rows(batch, rows=5),
        "encoder_attention_mask_2": torch.zeros(batch, 5),
        "image_embeds": torch.zeros(batch, 3, 8),
        "timestep": torch.full((batch,), 600.0),
    }


def mochi_transformer() -> MochiTransformer3DModel:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "num_layers": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 24,
        "pooled_projection_dim": 16,
    }
    config: dict[str, Any] = {"in_channels": 12, "text_embed_dim": 24, "time_embed_dim": 12}
    return randomize(MochiTransformer3DModel(**shape, **config))


def mochi_call(batch: int, rows: int, cols: int) -> dict[str, Any]:
    return {
        "hidden_states": random_latents(batch, 12, 2, 2 * rows, 2 * cols),
        "encoder_hidden_states": text_rows(batch, 24),
        "encoder_attention_mask": torch.ones(batch, 7, dtype=torch.bool),
        "timestep": torch.full((batch,), 400.0),
    }


FAMILY_SPECIMENS: dict[str, Specimen] = {
    "FluxTransformer2DModel": (flux_transformer, flux_call),
    "SD3Transformer2DModel": (sd3_transformer, sd3_call),
    "ChromaTransformer2DModel": (chroma_transformer, chroma_call),
    "Flux2Transformer2DModel": (flux2_transformer, flux2_call),
    "QwenImageTransformer2DModel": (qwen_transformer, qwen_call),
    "AuraFlowTransformer2DModel": (aura_flow_transformer, aura_flow_call),
    "CogView4Transformer2DModel": (cogview4_transformer, cogview4_call),
    "HunyuanVideoTransformer3DModel": (hunyuan_video_transformer, hunyuan_video_call),
    "HunyuanVideo15Transformer3DModel": (hunyuan_video15_transformer, hunyuan_video15_call),
    "MochiTransformer3DModel": (mochi_transformer, mochi_call),
    "CogVideoXTransformer3DModel": (cogvideox_transformer, cogvideox_call),
}
