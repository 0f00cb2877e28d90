"""The autoencoder of the small video model: films of 9 frames of 48x48 pixels to as many latent frames of 24x24x4.

    python training/train_film_vae.py             # again with --resume, which goes on from its folder

Each frame by itself: with two frames in one latent frame all that moved became a blur, and with kernels over time it
left a trail, since most of a film stands still. So the kernels' weights of earlier frames are held at zero, and lone
frames are enough to train it. Writes `training/runs/film-vae/` in diffusers' folder format. Mean absolute error, a
little KL, and nothing else.
"""

from __future__ import annotations

import argparse

import torch
from diffusers import AutoencoderKLCogVideoX
from torch import nn

from conceptlens.ops.precision import cpu_dtype
from film_data import as_input, load_frames
from scene_data import CACHE

RUN = CACHE / "film-vae"


def build() -> AutoencoderKLCogVideoX:
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 2,
        up_block_types=("CogVideoXUpBlock3D",) * 2,
        block_out_channels=(16, 32),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        temporal_compression_ratio=1,
        sample_height=48,
        sample_width=48,
        scaling_factor=1.0,
    )


@torch.no_grad()
def forget_earlier(model: AutoencoderKLCogVideoX) -> None:
    """Moves all weight of the causal kernels to the frame itself: the same function of a film that stands still."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] > 1:
            here = module.weight.sum(2)
            module.weight.zero_()
            module.weight[:, :, -1] = here


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=24, help="frames")
    parser.add_argument("--films", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    films = load_frames("train", args.films)
    frames = films.flatten(0, 1)[:, None]
    model = AutoencoderKLCogVideoX.from_pretrained(RUN) if args.resume else build()
    if not args.resume:
        with torch.no_grad():  # a posterior as wide as the prior would drown the first pictures in noise
            model.encoder.conv_out.conv.bias[model.config.latent_channels :] = -5.0
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M weights", flush=True)
    half = cpu_dtype() == torch.bfloat16
    solver = torch.optim.AdamW(model.parameters(), lr=args.rate, betas=(0.9, 0.99), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(solver, args.rate, args.steps, pct_start=0.05)
    for step in range(args.steps):
        forget_earlier(model)
        pixels = as_input(frames[torch.randint(len(frames), (args.batch,))])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            posterior = model.encode(pixels).latent_dist
            decoded = model.decode(posterior.sample()).sample
        error = (decoded.float() - pixels).abs().mean()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        solver.zero_grad()
        (error + 2e-3 * kl).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        solver.step()
        schedule.step()
        if step % 50 == 0 or step == args.steps - 1:
            print(f"{step:6d}  |error| {error.item():.4f}  kl {kl.item():.3f}", flush=True)
    forget_earlier(model)
    model.eval()
    with torch.no_grad():
        latents = torch.cat([model.encode(as_input(chunk)).latent_dist.mean for chunk in films[:64].split(8)])
    model.register_to_config(scaling_factor=1 / latents.std().item())
    model.save_pretrained(RUN)
    print(f"saved {RUN}: scale {model.config.scaling_factor:.3f}, mean {latents.mean().item():.3f}")


if __name__ == "__main__":
    main()
