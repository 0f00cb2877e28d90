"""Arguments of one call for the tiny models of `reentry`: batch, and sides of the patch grid."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from specimens.random_models import random_latents, text_rows


def times(batch: int, level: float = 600.0) -> Tensor:
    return torch.full((batch,), level)


def image_ids(rows: int, cols: int, axes: int = 3) -> Tensor:
    ids = torch.zeros(rows, cols, axes)
    ids[..., 1], ids[..., 2] = torch.arange(rows)[:, None], torch.arange(cols)
    return ids.flatten(0, 1)


def packed(batch: int, rows: int, cols: int) -> dict[str, Any]:
    places = torch.zeros(7, 3)
    return {
        "hidden_states": random_latents(batch, rows * cols, 16),
        "encoder_hidden_states": text_rows(batch),
        "timestep": times(batch, 0.6),
        "img_ids": image_ids(rows, cols),
        "txt_ids": places,
    }


def placed(batch: int, rows: int, cols: int) -> dict[str, Any]:
    """Text whose rows have positions of their own."""
    call = packed(batch, rows, cols)
    call["txt_ids"][:, 1] = call["txt_ids"][:, 2] = torch.arange(7)
    return call


def layered(batch: int, rows: int, cols: int) -> dict[str, Any]:
    """Text with states of its own for each block."""
    return {**packed(batch, rows, cols), "text_encoder_layers": [text_rows(batch, 12) + n for n in range(4)]}


def hidream(batch: int, rows: int, cols: int) -> dict[str, Any]:
    """Text of two encoders: T5, and four layers of a Llama, of which each block is given one."""
    call = plane(batch, rows, cols)
    return {
        "hidden_states": call["hidden_states"],
        "timesteps": call["timestep"],
        "encoder_hidden_states_t5": call["encoder_hidden_states"],
        "encoder_hidden_states_llama3": torch.stack([text_rows(batch, 12) + n for n in range(4)]),
        "pooled_embeds": text_rows(batch, 12, 1)[:, 0],
    }


def one_sequence(batch: int, rows: int, cols: int) -> dict[str, Any]:
    """Two rows of padding, seven of text, then the image, in one sequence."""
    images, ids = rows * cols, torch.zeros(9, 3)
    ids[2:] = torch.arange(7)[:, None]
    roles = torch.tensor([0] * 2 + [3] * 7 + [2] * images).repeat(batch, 1)
    return {
        "hidden_states": F.pad(random_latents(batch, images, 16), (0, 0, 9, 0)),
        "encoder_hidden_states": F.pad(text_rows(batch), (0, 0, 2, images)),
        "timestep": times(batch, 0.6),
        "position_ids": torch.cat([ids, image_ids(rows, cols) + 100]).long().repeat(batch, 1, 1),
        "segment_ids": torch.where(roles == 0, -1, 1),
        "indicator": roles,
    }


def video_and_sound(batch: int, rows: int, cols: int) -> dict[str, Any]:
    """Seven rows of text, a frame given as a condition, four of sound, two painted frames; two levels of noise."""
    frame = image_ids(rows, cols).double()
    text, sound = (torch.zeros(count, 3, dtype=torch.float64) for count in (7, 4))
    text[:, 0], sound[:, 0] = torch.arange(7), 7 + torch.arange(4)
    frames = [frame + torch.tensor([7 + time, 0.25, 0.5]).double() for time in (0.0, 0.0, 5 / 3)]
    parts = [text, frames[0], sound, *frames[1:]]
    tags, levels = (1, 0, 2, 0, 0), (0, 0, 1, 1, 1)
    counts = torch.tensor([len(part) for part in parts])
    places = torch.arange(int(counts.sum())).split(counts.tolist())
    return {
        "hidden_states": random_latents(batch, 3 * rows * cols, 16),
        "audio_hidden_states": random_latents(batch, 4, 6),
        "encoder_hidden_states": text_rows(batch),
        "timestep": torch.tensor([0.0, 0.6]),
        "position_ids": torch.cat(parts),
        "token_tags": torch.tensor(tags).repeat_interleave(counts),
        "timestep_indices": torch.tensor(levels).repeat_interleave(counts),
        "text_indices": places[0],
        "video_indices": torch.cat([places[1], *places[3:]]),
        "audio_indices": places[2],
    }


def plane(batch: int, rows: int, cols: int, patch: int = 2, channels: int = 4) -> dict[str, Any]:
    return {
        "hidden_states": random_latents(batch, channels, patch * rows, patch * cols),
        "encoder_hidden_states": text_rows(batch),
        "timestep": times(batch),
    }


def video(batch: int, rows: int, cols: int, patch: int = 2) -> dict[str, Any]:
    return {**plane(batch, rows, cols), "hidden_states": random_latents(batch, 4, 2, patch * rows, patch * cols)}


def masked(call: dict[str, Any], dtype: torch.dtype = torch.int64) -> dict[str, Any]:
    return {**call, "encoder_attention_mask": torch.ones(call["encoder_hidden_states"].shape[:2], dtype=dtype)}


def second_text(call: dict[str, Any]) -> dict[str, Any]:
    """With a second encoder's text of five padded rows."""
    batch = len(call["timestep"])
    return {
        **call,
        "encoder_hidden_states_2": text_rows(batch, 16, 5),
        "encoder_attention_mask_2": torch.zeros(batch, 5, dtype=torch.int64),
    }


def framepack(batch: int, rows: int, cols: int) -> dict[str, Any]:
    past = {"clean": 1, "history_2x": 2, "history_4x": 4}
    return {
        **masked(video(batch, rows, cols)),
        "pooled_projections": text_rows(batch, 12, 1)[:, 0],
        "guidance": times(batch, 6000.0),
        "image_embeds": text_rows(batch, 8, 3),
        "indices_latents": torch.arange(8, 10),
        **{f"latents_{name}": random_latents(batch, 4, count, 2 * rows, 2 * cols) for name, count in past.items()},
        **{f"indices_latents_{name}": torch.arange(count) for name, count in past.items()},
    }


def joy_plus(batch: int, rows: int, cols: int) -> dict[str, Any]:
    return {
        "hidden_states": random_latents(batch, rows * cols + 6, 4, 1, 2, 2),
        "encoder_hidden_states": text_rows(batch),
        "encoder_hidden_states_mask": torch.ones(batch, 7),
        "timestep": times(batch),
        "shape_list": [[[1, rows, cols], [1, 2, 3]]] * batch,
    }


def sized(batch: int, rows: int, cols: int) -> dict[str, Any]:
    size = torch.tensor([[16.0 * rows, 16.0 * cols]]).expand(batch, -1)
    return {**plane(batch, rows, cols), "target_size": size, "crop_coords": torch.zeros(batch, 2)}


def cogview3(batch: int, rows: int, cols: int) -> dict[str, Any]:
    call = sized(batch, rows, cols)
    return {**call, "original_size": call["target_size"]}


def glm(batch: int, rows: int, cols: int) -> dict[str, Any]:
    prior = torch.arange(rows * cols)[None].expand(batch, -1) % 11
    return {
        **sized(batch, rows, cols),
        "prior_token_id": prior,
        "prior_token_drop": torch.zeros(batch, rows * cols).bool(),
    }


def consisid(batch: int, rows: int, cols: int) -> dict[str, Any]:
    return {
        **plane(batch, rows, cols),
        "hidden_states": random_latents(batch, 2, 4, 2 * rows, 2 * cols),
        "encoder_hidden_states": text_rows(batch, rows=16),
        "timestep": torch.full((batch,), 600),
    }


def flux3(batch: int, rows: int, cols: int) -> dict[str, Any]:
    return {**packed(batch, rows, cols), "img_ids": image_ids(rows, cols, 4), "txt_ids": torch.zeros(7, 4)}


def z_image(batch: int, rows: int, cols: int) -> dict[str, Any]:
    return {
        "x": list(random_latents(batch, 4, 1, 2 * rows, 2 * cols)),
        "t": times(batch, 0.4),
        "cap_feats": list(text_rows(batch)),
    }


def krea2(batch: int, rows: int, cols: int) -> dict[str, Any]:
    return {
        **masked(packed(batch, rows, cols), torch.bool),
        "encoder_hidden_states": text_rows(batch, 2 * 24).unflatten(-1, (2, 24)),
        "position_ids": torch.cat([torch.zeros(7, 3), image_ids(rows, cols)]),
    }


def ernie(batch: int, rows: int, cols: int) -> dict[str, Any]:
    call = plane(batch, rows, cols, patch=1, channels=8)
    text = call.pop("encoder_hidden_states")
    return {**call, "text_bth": text, "text_lens": torch.full((batch,), 7)}


def without(call: Any, *names: str) -> Any:
    def made(batch: int, rows: int, cols: int) -> dict[str, Any]:
        return {name: value for name, value in call(batch, rows, cols).items() if name not in names}

    return made
