"""Films of one split as arrays, drawn once by all cores and cached under `training/runs/`."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from diffusers import AutoencoderKL

from conceptlens.bench.datasets.moving import Film, make_film
from conceptlens.bench.datasets.scenes import SPLITS
from scene_data import CACHE, scaled_latents


def load_films(limit: int, vae: AutoencoderKL) -> tuple[list[Film], torch.Tensor]:
    """Training films without their frames, and their latents: (film, channel, frame, rows, cols) float16."""
    path = CACHE / f"film-latents-{limit}.pt"
    with ProcessPoolExecutor() as pool:
        films = list(pool.map(make_film, range(SPLITS["train"], SPLITS["train"] + limit), chunksize=256))
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(torch.cat([encode(film, vae) for film in films]), path.with_suffix(".tmp"))
        path.with_suffix(".tmp").rename(path)
    blank = np.zeros(0)
    return [replace(film, frames=blank, labels=blank, instances=blank) for film in films], torch.load(path)


@torch.no_grad()
def encode(film: Film, vae: AutoencoderKL) -> torch.Tensor:
    """The picture autoencoder's means of each frame, as the transformer takes them: (1, channel, frame, rows, cols)."""
    pixels = torch.from_numpy(film.frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    return scaled_latents(vae, pixels).transpose(0, 1)[None].half()
