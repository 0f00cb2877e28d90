"""Scenes of one split as arrays, drawn once by all cores and cached under `training/runs/`."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from einops import rearrange

from conceptlens.bench.datasets.scenes import SPLITS, Scene, make_scene

CACHE = Path(__file__).parent / "runs"


def _pixels(seed: int) -> np.ndarray:
    return make_scene(seed).image


def load_images(split: str, limit: int) -> torch.Tensor:
    """The first `limit` pictures of a split: (limit, 64, 64, 3) uint8."""
    path = CACHE / f"{split}-{limit}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor() as pool:
            seeds = range(SPLITS[split], SPLITS[split] + limit)
            images = np.stack(list(pool.map(_pixels, seeds, chunksize=256)))
        np.save(path, images)
    return torch.from_numpy(np.load(path))


def load_scenes(limit: int, vae: AutoencoderKL) -> tuple[list[Scene], torch.Tensor]:
    """Training scenes without their pictures, and their packed latents: (limit, flip, image, dim) float16."""
    path = CACHE / f"latents-{limit}.pt"
    with ProcessPoolExecutor() as pool:
        seeds = range(SPLITS["train"], SPLITS["train"] + limit)
        scenes = list(pool.map(make_scene, seeds, chunksize=256))
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        vae = vae.to(memory_format=torch.channels_last)  # twice as fast on a CPU
        rows = []
        with torch.no_grad():
            for chunk in torch.from_numpy(np.stack([s.image for s in scenes])).split(256):
                pixels = chunk.permute(0, 3, 1, 2).float() / 127.5 - 1  # channels last already
                rows.append(torch.stack([pack_latents(vae, p) for p in (pixels, pixels.flip(-1))], 1).half())
        torch.save(torch.cat(rows), path.with_suffix(".tmp"))
        path.with_suffix(".tmp").rename(path)
    return [replace(s, image=np.zeros(0)) for s in scenes], torch.load(path)


def scaled_latents(vae: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
    """The means of pictures, as a transformer takes them before they are packed: (picture, channel, rows, cols)."""
    latents = vae.encode(pixels).latent_dist.mean
    return (latents - vae.config.shift_factor) * vae.config.scaling_factor


def pack_latents(vae: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
    latents = scaled_latents(vae, pixels)
    return rearrange(latents, "b c (rows p) (cols q) -> b (rows cols) (c p q)", p=2, q=2)
