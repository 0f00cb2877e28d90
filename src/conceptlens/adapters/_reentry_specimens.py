"""Tiny random models of the classes whose blocks are entered again, with the arguments of a call; see `_specimens`."""

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
    HunyuanImageTransformer2DModel,
    HunyuanVideoFramepackTransformer3DModel,
    JoyImageEditPlusTransformer3DModel,
    JoyImageEditTransformer3DModel,
    Krea2Transformer2DModel,
    LongCatImageTransformer2DModel,
    Lumina2Transformer2DModel,
    MotifVideoTransformer3DModel,
    OvisImageTransformer2DModel,
    ZImageTransformer2DModel,
)
from torch import Tensor

from conceptlens.adapters._random_models import TEXT, Specimen, random_latents, randomize, text_rows

_HEADS = {"attention_head_dim": 24, "num_attention_heads": 2, "num_layers": 3}
_FLUX: dict[str, Any] = {**_HEADS, "num_single_layers": 1, "in_channels": 16, "joint_attention_dim": TEXT}
_FLUX["axes_dims_rope"] = [4, 10, 10]
_HUNYUAN: dict[str, Any] = {**_HEADS, "num_refiner_layers": 1, "text_embed_dim": TEXT, "in_channels": 4}
_HUNYUAN["out_channels"] = 4
_ROPE3 = (4, 10, 10)


def _model(kind: Any, **config: Any) -> Any:
    torch.manual_seed(0)
    return randomize(kind(**config))


def _times(batch: int, level: float = 600.0) -> Tensor:
    return torch.full((batch,), level)


def _ids(rows: int, cols: int, axes: int = 3) -> Tensor:
    ids = torch.zeros(rows, cols, axes)
    ids[..., 1], ids[..., 2] = torch.arange(rows)[:, None], torch.arange(cols)
    return ids.flatten(0, 1)


def _packed(batch: int, rows: int, cols: int) -> dict[str, Any]:
    places = torch.zeros(7, 3)
    return {
        "hidden_states": random_latents(batch, rows * cols, 16),
        "encoder_hidden_states": text_rows(batch),
        "timestep": _times(batch, 0.6),
        "img_ids": _ids(rows, cols),
        "txt_ids": places,
    }


def _placed(batch: int, rows: int, cols: int) -> dict[str, Any]:
    """Text whose rows have positions of their own."""
    call = _packed(batch, rows, cols)
    call["txt_ids"][:, 1] = call["txt_ids"][:, 2] = torch.arange(7)
    return call


def _layered(batch: int, rows: int, cols: int) -> dict[str, Any]:
    """Text with states of its own for each block."""
    return {**_packed(batch, rows, cols), "text_encoder_layers": [text_rows(batch, 12) + n for n in range(4)]}


def _plane(batch: int, rows: int, cols: int, patch: int = 2, channels: int = 4) -> dict[str, Any]:
    return {
        "hidden_states": random_latents(batch, channels, patch * rows, patch * cols),
        "encoder_hidden_states": text_rows(batch),
        "timestep": _times(batch),
    }


def _video(batch: int, rows: int, cols: int, patch: int = 2) -> dict[str, Any]:
    return {**_plane(batch, rows, cols), "hidden_states": random_latents(batch, 4, 2, patch * rows, patch * cols)}


def _masked(call: dict[str, Any], dtype: torch.dtype = torch.int64) -> dict[str, Any]:
    return {**call, "encoder_attention_mask": torch.ones(call["encoder_hidden_states"].shape[:2], dtype=dtype)}


def _second_text(call: dict[str, Any]) -> dict[str, Any]:
    """With a second encoder's text of five padded rows."""
    batch = len(call["timestep"])
    return {
        **call,
        "encoder_hidden_states_2": text_rows(batch, 16, 5),
        "encoder_attention_mask_2": torch.zeros(batch, 5, dtype=torch.int64),
    }


def _framepack(batch: int, rows: int, cols: int) -> dict[str, Any]:
    past = {"clean": 1, "history_2x": 2, "history_4x": 4}
    return {
        **_masked(_video(batch, rows, cols)),
        "pooled_projections": text_rows(batch, 12, 1)[:, 0],
        "guidance": _times(batch, 6000.0),
        "image_embeds": text_rows(batch, 8, 3),
        "indices_latents": torch.arange(8, 10),
        **{f"latents_{name}": random_latents(batch, 4, count, 2 * rows, 2 * cols) for name, count in past.items()},
        **{f"indices_latents_{name}": torch.arange(count) for name, count in past.items()},
    }


def _joy_plus(batch: int, rows: int, cols: int) -> dict[str, Any]:
    return {
        "hidden_states": random_latents(batch, rows * cols + 6, 4, 1, 2, 2),
        "encoder_hidden_states": text_rows(batch),
        "encoder_hidden_states_mask": torch.ones(batch, 7),
        "timestep": _times(batch),
        "shape_list": [[[1, rows, cols], [1, 2, 3]]] * batch,
    }


def _sized(batch: int, rows: int, cols: int) -> dict[str, Any]:
    size = torch.tensor([[16.0 * rows, 16.0 * cols]]).expand(batch, -1)
    return {**_plane(batch, rows, cols), "target_size": size, "crop_coords": torch.zeros(batch, 2)}


def _cogview3(batch: int, rows: int, cols: int) -> dict[str, Any]:
    call = _sized(batch, rows, cols)
    return {**call, "original_size": call["target_size"]}


def _glm(batch: int, rows: int, cols: int) -> dict[str, Any]:
    prior = torch.arange(rows * cols)[None].expand(batch, -1) % 11
    return {
        **_sized(batch, rows, cols),
        "prior_token_id": prior,
        "prior_token_drop": torch.zeros(batch, rows * cols).bool(),
    }


def _consisid(batch: int, rows: int, cols: int) -> dict[str, Any]:
    return {
        **_plane(batch, rows, cols),
        "hidden_states": random_latents(batch, 2, 4, 2 * rows, 2 * cols),
        "encoder_hidden_states": text_rows(batch, rows=16),
        "timestep": torch.full((batch,), 600),
    }


def _flux3(batch: int, rows: int, cols: int) -> dict[str, Any]:
    return {**_packed(batch, rows, cols), "img_ids": _ids(rows, cols, 4), "txt_ids": torch.zeros(7, 4)}


def _z_image(batch: int, rows: int, cols: int) -> dict[str, Any]:
    return {
        "x": list(random_latents(batch, 4, 1, 2 * rows, 2 * cols)),
        "t": _times(batch, 0.4),
        "cap_feats": list(text_rows(batch)),
    }


def _krea2(batch: int, rows: int, cols: int) -> dict[str, Any]:
    return {
        **_masked(_packed(batch, rows, cols), torch.bool),
        "encoder_hidden_states": text_rows(batch, 2 * 24).unflatten(-1, (2, 24)),
        "position_ids": torch.cat([torch.zeros(7, 3), _ids(rows, cols)]),
    }


def _ernie(batch: int, rows: int, cols: int) -> dict[str, Any]:
    call = _plane(batch, rows, cols, patch=1, channels=8)
    text = call.pop("encoder_hidden_states")
    return {**call, "text_bth": text, "text_lens": torch.full((batch,), 7)}


def _without(call: Any, *names: str) -> Any:
    def made(batch: int, rows: int, cols: int) -> dict[str, Any]:
        return {name: value for name, value in call(batch, rows, cols).items() if name not in names}

    return made


REENTRY_SPECIMENS: dict[str, Specimen] = {
    "BriaTransformer2DModel": (lambda: _model(BriaTransformer2DModel, **_FLUX), _packed),
    "BriaFiboTransformer2DModel": (
        lambda: _model(BriaFiboTransformer2DModel, **_FLUX, text_encoder_dim=12),
        _layered,
    ),
    "LongCatImageTransformer2DModel": (
        lambda: _model(LongCatImageTransformer2DModel, **_FLUX, pooled_projection_dim=12),
        _placed,
    ),
    "OvisImageTransformer2DModel": (
        lambda: _model(OvisImageTransformer2DModel, **_FLUX, out_channels=16),
        _packed,
    ),
    "HunyuanImageTransformer2DModel": (
        lambda: _model(
            HunyuanImageTransformer2DModel,
            **_HUNYUAN,
            num_single_layers=1,
            rope_axes_dim=(12, 12),
            text_embed_2_dim=16,
        ),
        lambda batch, rows, cols: _second_text(_masked(_plane(batch, rows, cols, patch=1))),
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
        _framepack,
    ),
    "MotifVideoTransformer3DModel": (
        lambda: _model(
            MotifVideoTransformer3DModel,
            **{name: value for name, value in _HUNYUAN.items() if name != "num_refiner_layers"},
            num_single_layers=1,
            rope_axes_dim=_ROPE3,
        ),
        lambda batch, rows, cols: _masked(_video(batch, rows, cols)),
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
        _video,
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
            **_plane(batch, rows, cols),
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
        _joy_plus,
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
        _cogview3,
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
        _consisid,
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
        _glm,
    ),
    "Flux3Transformer2DModel": (
        lambda: _model(
            Flux3Transformer2DModel,
            **{**_FLUX, "num_layers": 1, "num_single_layers": 3, "axes_dims_rope": (4, 8, 8, 4)},
            cond_in_channels=16,
            timestep_channels=16,
        ),
        _flux3,
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
        _z_image,
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
        lambda batch, rows, cols: {**_masked(_plane(batch, rows, cols)), "timestep": _times(batch, 0.4)},
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
        _without(_krea2, "img_ids", "txt_ids"),
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
        _ernie,
    ),
}
