"""A small latent-diffusion U-Net with cross-attention: the model that guidance is tried on offline.

    python training/train_unet.py --seconds 2400          # again with --resume after an interruption
    python training/train_unet.py --export src/conceptlens/assets/demo-unet
    python training/train_unet.py --name sd2 --channels 24 48 96 --grow src/conceptlens/assets/demo-unet --seconds 3600
    python training/train_unet.py --name sdxl --shape sdxl --channels 24 48 96 --grow zoo/sd2 --seconds 3600

Plain diffusion training (v-prediction) on the storybook scenes, U-Net and text encoder together, 10% empty captions.
Two levels of channels paint at half size, 32x32 pixels; three paint 64x64, the third level without attention.
Nothing tells the text encoder which colour belongs to which noun: objects go missing and colours leak in prompts with
two of them, which is what guidance is for.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from conceptlens.bench.datasets.scenes import Scene, describe, scenes
from conceptlens.ops.precision import cpu_dtype
from export import forget_origin
from steps import follow, optimizers, resume, save, set_rate
from unet_model import SHAPES, DemoUNet, build_scheduler, build_vae, grow

RUN = Path(__file__).parent / "runs"


@torch.no_grad()
def load_data(limit: int, reduction: int) -> tuple[list[Scene], Tensor]:
    """Training scenes without arrays (captions are made from them), and latents: (limit, flip, 4, side, side) float16.

    Pictures are made smaller by `reduction` before they are encoded.
    """
    cache = RUN / f"scenes-{limit}-{64 // reduction}.pkl"
    if not cache.exists():
        vae, kept, rows = build_vae(), [], []
        drawn = scenes("train", limit)
        while part := list(itertools.islice(drawn, 256)):
            pixels = torch.from_numpy(np.stack([s.image for s in part])).permute(0, 3, 1, 2).float() / 127.5 - 1
            small = F.avg_pool2d(pixels, reduction)
            rows.append(torch.stack([vae.encode(p).latent_dist.mean for p in (small, small.flip(-1))], 1).half())
            kept += [replace(s, labels=np.zeros(0), image=np.zeros(0)) for s in part]
        cache.write_bytes(pickle.dumps((kept, torch.cat(rows))))
    kept, latents = pickle.loads(cache.read_bytes())
    return kept, latents * build_vae().config.scaling_factor


def initialize(model: DemoUNet, folder: Path) -> None:
    """Weights of an exported folder."""
    model.unet.load_state_dict(UNet2DConditionModel.from_pretrained(folder / "unet").float().state_dict())
    saved = type(model.text_encoder).from_pretrained(folder / "text_encoder").float()
    model.text_encoder.load_state_dict(saved.state_dict())


def export(checkpoint: Path, folder: Path) -> None:
    """The averaged weights as an ordinary pipeline folder in float16."""
    saved = torch.load(checkpoint, weights_only=False)
    model = SHAPES[saved["args"].get("shape", "sd2")](tuple(saved["args"]["channels"]))
    model.load_state_dict(saved["average"])
    pipeline = model.pipeline()
    pipeline.to(torch.float16).save_pretrained(folder)
    forget_origin(folder / "vae" / "config.json")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"saved {folder} after {saved['step']} steps: {size / 1e6:.1f} MB")


def train(args: argparse.Namespace) -> None:
    checkpoint = RUN / f"{args.name}.pt"
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    known, latents = load_data(args.scenes, 2 ** (3 - len(args.channels)))
    model = SHAPES[args.shape](tuple(args.channels))
    model.unet.set_attn_processor(AttnProcessor())  # plain products: on a CPU faster than the fused kernel
    if args.init:
        initialize(model, args.init)
    if args.grow:
        grow(model, args.grow)
    average = copy.deepcopy(model).requires_grad_(False)
    # The matrices are those of the U-Net's transformer blocks.
    solvers = optimizers(model, args.rate, lambda name: ".attentions." in name)
    print(f"{sum(p.numel() for p in model.unet.parameters()) / 1e6:.2f}M U-Net weights", flush=True)
    start = 0
    if args.resume and checkpoint.exists():
        start = resume(checkpoint, model, average, solvers)
        rng = np.random.default_rng(start)

    scheduler, running, began = build_scheduler(), math.nan, time.time()
    # Pieces of a batch side by side wait for each other less than threads within each operation do.
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(args.threads)
    for step in range(start, args.steps):
        spent = time.time() - began
        done_share = max(step / args.steps, spent / args.seconds)
        set_rate(solvers, args, step, done_share)
        batch = draw(model, scheduler, known, latents, rng, args)
        loss = backward(model, batch, pool, args.pieces)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for solver in solvers:
            solver.step()
        follow(average, model, step, 0.9985)
        running = loss.item() if math.isnan(running) else 0.98 * running + 0.02 * loss.item()
        spent = time.time() - began
        if step % 100 == 0:
            print(f"{step:6d} loss {running:.4f}  {spent / (step - start + 1):.3f} s", flush=True)
        done = step == args.steps - 1 or spent > args.seconds
        if step % 500 == 499 or done:
            save(checkpoint, model, average, solvers, step + 1, args)
        if done:
            break


Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def draw(
    model: DemoUNet,
    scheduler: DDIMScheduler,
    known: list[Scene],
    latents: Tensor,
    rng: np.random.Generator,
    args: argparse.Namespace,
) -> Batch:
    """Noisy latents, their timesteps, captions, and what the model should say."""
    picked, flips = torch.randint(len(known), (args.batch,)), torch.randint(2, (args.batch,))
    clean = latents[picked, flips].float()
    tokens = model.tokens([describe(known[i], rng) for i in picked.tolist()])
    # Where things go is decided at high noise, so training is moved there.
    moment = (1000 * torch.sigmoid(1.2 * torch.randn(args.batch) + args.time_shift)).long().clamp(0, 999)
    noise = torch.randn_like(clean)
    noisy, target = scheduler.add_noise(clean, noise, moment), scheduler.get_velocity(clean, noise, moment)
    return noisy, moment, tokens, target


def backward(model: DemoUNet, batch: Batch, pool: ThreadPoolExecutor, pieces: int) -> Tensor:
    """The loss, with its gradient in the weights; the batch goes to the threads in equal pieces."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def piece(parts: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
        noisy, moment, tokens, target = parts
        with torch.autocast("cpu", torch.bfloat16, enabled=cpu_dtype() == torch.bfloat16, cache_enabled=False):
            said = model(noisy, moment, tokens)
        loss = (said.float() - target).square().mean()
        return loss.detach(), torch.autograd.grad(loss, weights)

    made = list(pool.map(piece, zip(*(part.chunk(pieces) for part in batch), strict=True)))
    for weight, *gradients in zip(weights, *(gradients for _, gradients in made), strict=True):
        weight.grad = sum(gradients[1:], gradients[0]) / pieces
    return torch.stack([loss for loss, _ in made]).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pieces", type=int, default=2, help="of a batch; more than threads where other work runs too")
    parser.add_argument("--scenes", type=int, default=16000)
    parser.add_argument("--shape", choices=list(SHAPES), default="sd2", help="of Stable Diffusion 2, or XL")
    parser.add_argument("--channels", type=int, nargs="+", default=[48, 96], help="of 2 or 3 levels")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--matrix-rate", type=float, default=2.0, help="Muon's rate, as a multiple of --rate")
    parser.add_argument("--time-shift", type=float, default=0.7, help="above 0: more training at high noise")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--init", type=Path, help="start from the weights of an exported folder")
    parser.add_argument("--grow", type=Path, help="start from the weights of a smaller exported folder")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop (with a checkpoint) after so long")
    parser.add_argument("--name", default="unet")
    parser.add_argument("--export", type=Path, help="write the checkpoint as a pipeline folder, and do not train")
    args = parser.parse_args()
    if args.export:
        export(RUN / f"{args.name}.pt", args.export)
    else:
        train(args)


if __name__ == "__main__":
    main()
