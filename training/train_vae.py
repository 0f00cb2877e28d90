"""Stage 1: the autoencoder of the demo model, 64x64 pixels to 32x32x4 latents.

    python training/train_vae.py

Writes `training/runs/vae/` in diffusers' folder format. Mean absolute error, a little KL, and nothing else.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from conceptlens.ops.precision import cpu_dtype
from scene_data import load_images

RUN = Path(__file__).parent / "runs" / "vae"


def build() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(16, 48),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--scenes", type=int, default=8000)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    torch.manual_seed(0)
    images = load_images("train", args.scenes)
    model = build().to(args.device)
    half = args.device != "cpu" or cpu_dtype() == torch.bfloat16
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.99), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, args.steps, pct_start=0.05)
    for step in range(args.steps):
        batch = images[torch.randint(len(images), (args.batch,))].to(args.device)
        pixels = batch.permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.autocast(args.device, dtype=torch.bfloat16, enabled=half):
            posterior = model.encode(pixels).latent_dist
            decoded = model.decode(posterior.sample()).sample
        error = (decoded.float() - pixels).abs().mean()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss = error + 2e-3 * kl
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == args.steps - 1:
            print(f"{step:6d}  |error| {error.item():.4f}  kl {kl.item():.3f}", flush=True)

    model.eval()
    with torch.no_grad():
        pixels = images[:512].permute(0, 3, 1, 2).float().to(args.device) / 127.5 - 1
        latents = model.encode(pixels).latent_dist.mean
    model.register_to_config(shift_factor=latents.mean().item(), scaling_factor=1 / latents.std().item())
    model.to("cpu").save_pretrained(RUN)
    print(f"saved {RUN}: shift {model.config.shift_factor:.3f}, scale {model.config.scaling_factor:.3f}")


if __name__ == "__main__":
    main()
