"""Films of one split as arrays, drawn once by all cores and cached under `training/runs/`."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX

from conceptlens.bench.datasets.moving import Film, make_film
from conceptlens.bench.datasets.scenes import SPLITS
from conceptlens.ops.precision import cpu_dtype
from scene_data import CACHE


def draw(split: str, limit: int) -> list[Film]:
    """The first `limit` films of a split."""
    with ProcessPoolExecutor() as pool:
        return list(pool.map(make_film, range(SPLITS[split], SPLITS[split] + limit), chunksize=256))


def load_frames(split: str, limit: int) -> torch.Tensor:
    """Their frames: (film, frame, height, width, 3) uint8."""
    return torch.from_numpy(np.stack([film.frames for film in draw(split, limit)]))


def load_films(limit: int, vae: AutoencoderKLCogVideoX) -> tuple[list[Film], torch.Tensor]:
    """Training films without their frames, and their latents: (film, frame, channel, rows, cols) float16."""
    path = CACHE / f"film-latents-{limit}.pt"
    films = draw("train", limit)
    if not path.exists():
        save_latents(films, vae, path)
    blank = np.zeros(0)
    return [replace(film, frames=blank, labels=blank, instances=blank) for film in films], torch.load(path)


def as_input(frames: torch.Tensor) -> torch.Tensor:
    """(film, frame, height, width, 3) bytes as (film, 3, frame, height, width) in -1..1."""
    return frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


@torch.no_grad()
def save_latents(films: list[Film], vae: AutoencoderKLCogVideoX, path: Path) -> None:
    """The autoencoder's means, scaled, as the transformer takes them."""
    rows = []
    for first in range(0, len(films), 16):
        frames = torch.from_numpy(np.stack([film.frames for film in films[first : first + 16]]))
        pixels = as_input(frames)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cpu_dtype() == torch.bfloat16):
            latents = vae.encode(pixels).latent_dist.mean.float() * vae.config.scaling_factor
        latents = latents.permute(0, 2, 1, 3, 4).half()
        rows.append(torch.cat([latents[:, :1], latents], 1))  # where the pipeline puts a frame to make pairs of all
    torch.save(torch.cat(rows), path.with_suffix(".tmp"))
    path.with_suffix(".tmp").rename(path)
