"""What the trainings of small vision models share: pictures, their augmentation, the shape of the models, the loop.

Models see 64x64 pixels in 16x16 patches, normalised to -1..1 (mean and standard deviation 0.5).
"""

from __future__ import annotations

import argparse
import copy
import math
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, ViTImageProcessor
from transformers.modeling_layers import GradientCheckpointingLayer

import steps
from conceptlens.bench.datasets.scenes import SPLITS, Scene, make_scene
from conceptlens.ops.precision import cpu_dtype
from steps import Figures, Pupil, optimizers, resume

RUN = Path(__file__).parent / "runs"
TOWER = {
    "hidden_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 4,
    "hidden_act": "gelu",
}
"""Every vision transformer here, in the words of transformers' configurations."""

TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""From red, green and blue to brightness and two axes of colour."""


def portraits(scenes: list[Scene], pictures: Tensor) -> Tensor:
    """Each picture cut to 40 x 40 pixels around its only object, off its middle: (picture, 3, 40, 40)."""
    rng, cut = np.random.default_rng(0), []
    for scene, pixels in zip(scenes, pictures, strict=True):
        item = scene.objects[0]
        left, top = (int(np.clip(place + rng.uniform(-8, 8) - 20, 0, 24)) for place in (item.x, item.y))
        cut.append(pixels[:, top : top + 40, left : left + 40])
    return torch.stack(cut)


def load_pictures(split: str, limit: int, draw: Callable[[int], Scene] = make_scene) -> tuple[list[Scene], Tensor]:
    """The first scenes of a split without their arrays, and their pictures: (limit, 3, 64, 64) uint8."""
    cache = RUN / f"pictures-{draw.__name__}-{split}-{limit}.pkl"
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor() as pool:
            drawn = list(pool.map(draw, range(SPLITS[split], SPLITS[split] + limit), chunksize=256))
        pixels = torch.from_numpy(np.stack([scene.image for scene in drawn])).permute(0, 3, 1, 2).contiguous()
        scenes = [replace(scene, image=np.zeros(0), labels=np.zeros(0)) for scene in drawn]
        cache.with_suffix(".tmp").write_bytes(pickle.dumps((scenes, pixels)))
        cache.with_suffix(".tmp").rename(cache)
    scenes, pixels = pickle.loads(cache.read_bytes())
    return scenes, pixels


def normalized(pixels: Tensor) -> Tensor:
    """uint8 to -1..1."""
    return pixels.float() / 127.5 - 1


def jittered(pixels: Tensor, strength: float) -> Tensor:
    """Brightness, contrast and saturation of each picture moved at random, by up to `strength`; in -1..1."""
    low, high = 1 - strength, 1 + strength
    bright, contrast, saturation = (torch.empty(len(pixels), 1, 1, 1).uniform_(low, high) for _ in range(3))
    pixels = (pixels + 1) * bright - 1
    mean = pixels.mean((1, 2, 3), keepdim=True)
    pixels = mean + (pixels - mean) * contrast
    grey = pixels.mean(1, keepdim=True)
    return (grey + (pixels - grey) * saturation).clamp(-1, 1)


def tinted(pixels: Tensor) -> Tensor:
    """The hue of each picture turned by up to a half of the circle, one in five without colour; in -1..1."""
    count = len(pixels)
    angle = torch.empty(count).uniform_(-math.pi, math.pi) / 2
    turn = torch.zeros(count, 3, 3)
    turn[:, 0, 0] = 1
    turn[:, 1, 1], turn[:, 1, 2], turn[:, 2, 1], turn[:, 2, 2] = angle.cos(), -angle.sin(), angle.sin(), angle.cos()
    turn[torch.rand(count) < 0.2, 1:] = 0
    return torch.einsum("nij,njhw->nihw", TO_YIQ.inverse() @ turn @ TO_YIQ, pixels).clamp(-1, 1)


def cropped(pixels: Tensor, area: tuple[float, float], side: int) -> Tensor:
    """A random part of each picture, mirrored at random, at `side` x `side` pixels.

    `area` bounds the share of the picture that it covers; its aspect lies between 3:4 and 4:3.
    """
    count = len(pixels)
    share = torch.empty(count).uniform_(*area)
    aspect = torch.empty(count).uniform_(math.log(3 / 4), math.log(4 / 3)).exp()
    width, height = (share * aspect).sqrt().clamp(max=1), (share / aspect).sqrt().clamp(max=1)
    x, y = (torch.empty(count).uniform_(-1, 1) * (1 - extent) for extent in (width, height))
    mirror = torch.randint(2, (count,)) * 2.0 - 1
    zero = torch.zeros(count)
    theta = torch.stack([torch.stack([width * mirror, zero, x], 1), torch.stack([zero, height, y], 1)], 1)
    grid = F.affine_grid(theta, [count, 3, side, side], align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def arguments(description: str | None, **usual: object) -> argparse.ArgumentParser:
    """The options that all of these trainings have; `usual` replaces defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop, with a checkpoint, after so long")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--scenes", type=int, default=16000)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--matrix-rate", type=float, default=2.0, help="Muon's rate, as a multiple of --rate")
    parser.add_argument("--compile", action="store_true", help="faster on a CPU, after a minute of compiling")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", help="of the checkpoint in training/runs")
    parser.add_argument("--export", type=Path, help="write the checkpoint as a folder, and do not train")
    parser.set_defaults(**usual)
    return parser


def train(
    model: nn.Module,
    args: argparse.Namespace,
    loss_of: Callable[[int], tuple[Tensor, Figures]],
    *,
    muon: bool = True,
    decay: Callable[[float], float] = lambda done: 0.998,
    average: nn.Module | None = None,
) -> None:
    """Minimizes what `loss_of` returns for a step number, follows its figures, writes checkpoints.

    Args:
        model: in training mode.
        args: see `arguments`.
        loss_of: one batch's loss.
        muon: for the matrices of the blocks; else AdamW for all.
        decay: of the averaged weights, for the share of the training that is done, 0..1.
        average: the copy that follows the model; a new one when None. A teacher, where the loss needs it.
    """
    checkpoint = RUN / f"{args.name}.pt"
    torch.manual_seed(args.seed)
    average = copy.deepcopy(model).requires_grad_(False) if average is None else average
    if args.compile:
        compile_layers(model, average)
    solvers = optimizers(model, args.rate, lambda name: muon and "layers." in name)
    start = resume(checkpoint, model, average, solvers) if args.resume and checkpoint.exists() else 0
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M weights, heads included", flush=True)

    def followed(step: int) -> tuple[Tensor, Figures]:
        with torch.autocast("cpu", torch.bfloat16, enabled=cpu_dtype() == torch.bfloat16):
            loss, figures = loss_of(step)
        return loss, {"loss": loss.item(), **figures}

    steps.train(Pupil(model, average, solvers, checkpoint), args, followed, start=start, decay=decay)


def compile_layers(*models: nn.Module) -> None:
    """Compiles the blocks of transformers in place, with plain attention: on a CPU faster than the fused kernel."""
    for part in (part for model in models for part in model.modules()):
        if isinstance(part, PreTrainedModel):
            part.set_attn_implementation("eager")
        elif isinstance(part, GradientCheckpointingLayer):  # what transformers calls each block
            part.compile(dynamic=False)


def averaged(name: str) -> tuple[dict[str, Tensor], int]:
    """The averaged weights of a checkpoint, and after how many steps."""
    saved = torch.load(RUN / f"{name}.pt", weights_only=False)
    return saved["average"], saved["step"]


def export(model: PreTrainedModel, folder: Path, step: int) -> None:
    """Writes a model in float16 with the normalisation that it was trained with."""
    model.eval().to(torch.float16).save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    side = {"height": TOWER["image_size"], "width": TOWER["image_size"]}
    ViTImageProcessor(size=side, image_mean=half, image_std=half).save_pretrained(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"saved {folder} after {step} steps: {size / 1e6:.1f} MB")
