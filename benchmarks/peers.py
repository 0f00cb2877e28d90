"""What other tools cost, side by side with conceptlens on the same random weights.

    make peers      # an environment of its own in out/peers, then a quarter of an hour on two cores

Every job runs in a process of its own: a plain run, then plain runs and the tool's in turn. `times` is the ratio of the
medians, `more peak memory` what the process needed beyond the plain run. Weights are random, so maps mean nothing here;
what a tool captures of a model is counted from what it holds afterwards, not from what it says. Results go to
`benchmarks/peers.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from stored import store
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

import conceptlens as cl
from conceptlens.guidance import demo_folder

RESULTS = Path(__file__).parent / "peers.json"
PROMPT, WORDS = "a red house and a tree under the sun", ("house", "tree", "sun")
STEPS, DUAL, SINGLE = 2, 3, 3
Run = Callable[[], dict[str, Any]]


def randomized(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data.normal_(0, 0.02, generator=generator)
    return model.eval()


def flux() -> tuple[DiffusionPipeline, dict[str, Any]]:
    """FLUX.1's class at width 1024 with 4096 image tokens; text encoders and decoder are the embedded, small ones."""
    small = cl.load(device="cpu").pipeline
    config = dict(small.transformer.config)
    config |= {"num_layers": DUAL, "num_single_layers": SINGLE, "num_attention_heads": 8, "attention_head_dim": 128}
    wide = randomized(FluxTransformer2DModel.from_config(config | {"axes_dims_rope": (16, 56, 56)}))
    parts = {name: part for name, part in small.components.items() if name != "transformer"}
    pipeline = FluxPipeline(**parts, transformer=wide)
    side = 64 * 2 * pipeline.vae_scale_factor
    return pipeline, {"height": side, "width": side, "max_sequence_length": 256, "guidance_scale": 1.0}


def stable_diffusion() -> tuple[DiffusionPipeline, dict[str, Any]]:
    """Stable Diffusion 1.5's U-Net at half its width, 512x512 pixels, with guidance; the text encoder is small."""
    small = StableDiffusionPipeline.from_pretrained(demo_folder(), dtype=torch.float32, safety_checker=None)
    parts = {name: part for name, part in small.components.items() if name not in ("unet", "vae", "scheduler")}
    width = small.text_encoder.config.hidden_size
    channels = (160, 320, 640, 640)
    unet = UNet2DConditionModel(
        sample_size=64, cross_attention_dim=width, attention_head_dim=8, block_out_channels=channels
    )
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4, **kinds)
    text = CLIPTextConfig.from_dict({**small.text_encoder.config.to_dict(), "max_position_embeddings": 77})
    parts["tokenizer"].model_max_length = 77  # daam looks at no other length
    parts |= {"unet": randomized(unet), "vae": randomized(vae), "text_encoder": randomized(CLIPTextModel(text))}
    scheduler = DDIMScheduler(clip_sample=False, steps_offset=1)
    return StableDiffusionPipeline(**parts, scheduler=scheduler), {"height": 512, "width": 512}


def with_conceptlens(pipeline: DiffusionPipeline, call: dict[str, Any]) -> Run:
    session = cl.load(pipeline)

    def run() -> dict[str, Any]:
        maps = session.generate(PROMPT, WORDS, seed=0, num_inference_steps=STEPS, **call)
        blocks = {} if maps.recipe is None else {"blocks captured": len(maps.recipe.layers or ())}
        return {**blocks, "steps in a map": STEPS}

    return run


def with_attention_maps(timesteps: str) -> Callable[[DiffusionPipeline, dict[str, Any]], Run]:
    def prepared(pipeline: DiffusionPipeline, call: dict[str, Any]) -> Run:
        from attention_map_diffusers import AttentionCapture

        def run() -> dict[str, Any]:
            with AttentionCapture(pipeline, timesteps=timesteps) as capture:
                painted(pipeline, call)
            maps = capture.compute()
            blocks = {record.layer_id for record in maps.records}
            claimed, modules = (capture.coverage[name] for name in ("captured_modules", "attention_modules"))
            told = {"blocks claimed": f"{claimed} of {modules}", "steps in a map": 1 if timesteps == "last" else STEPS}
            return {"blocks captured": len(blocks), **told}

        return run

    return prepared


def with_daam(pipeline: DiffusionPipeline, call: dict[str, Any]) -> Run:
    from daam import trace

    def run() -> dict[str, Any]:
        with torch.no_grad(), trace(pipeline) as traced:
            painted(pipeline, call)
            traced.compute_global_heat_map()
            blocks = {layer for (_, layer, _), _ in traced.all_heat_maps}
        return {"blocks captured": len(blocks), "steps in a map": STEPS}

    return run


def painted(pipeline: DiffusionPipeline, call: dict[str, Any]) -> object:
    return pipeline(PROMPT, generator=torch.Generator().manual_seed(0), num_inference_steps=STEPS, **call)


JOBS: dict[str, tuple[Callable[[], tuple[DiffusionPipeline, dict[str, Any]]], Callable[..., Run], str]] = {
    "flux, conceptlens": (flux, with_conceptlens, "conceptlens"),
    "flux, attention-map-diffusers (last step)": (flux, with_attention_maps("last"), "attention-map-diffusers"),
    "flux, attention-map-diffusers (every step)": (flux, with_attention_maps("all"), "attention-map-diffusers"),
    "stable diffusion, conceptlens": (stable_diffusion, with_conceptlens, "conceptlens"),
    "stable diffusion, daam": (stable_diffusion, with_daam, "daam"),
}


def peak() -> float:
    """Megabytes that this process has needed at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(name: str, runs: int) -> dict[str, Any]:
    model, tool, package = JOBS[name]
    pipeline, call = model()
    pipeline.set_progress_bar_config(disable=True)
    painted(pipeline, call)
    before, run = peak(), tool(pipeline, call)
    counted, more = run(), peak() - before
    seconds: dict[str, list[float]] = {"plain": [], "tool": []}
    for _ in range(runs):
        for kind, job in (("plain", lambda: painted(pipeline, call)), ("tool", run)):
            started = time.perf_counter()
            job()
            seconds[kind].append(time.perf_counter() - started)
    plain, taken = (statistics.median(seconds[kind]) for kind in ("plain", "tool"))
    cost = {"plain seconds": round(plain, 2), "seconds": round(taken, 2), "times": round(taken / plain, 3)}
    return {"version": version(package), **cost, "more peak memory, MB": round(more), **counted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="", help="only the jobs whose name has this text")
    parser.add_argument("--job", help="one job, in this process; its figures are printed")
    args = parser.parse_args()
    if args.job:
        print(json.dumps(measured(args.job, args.runs)))
        return
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["setting"] = {
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": version("torch"),
        "diffusers": version("diffusers"),
        "steps": STEPS,
        "flux": f"width 1024, {DUAL} dual and {SINGLE} single blocks, 4096 image and 256 text tokens, float32",
        "stable diffusion": "half the width of 1.5, 512x512 pixels, with guidance, float32",
    }
    for name in JOBS:
        if args.only not in name:
            continue
        command = [sys.executable, __file__, "--job", name, "--runs", str(args.runs)]
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        results[name] = json.loads(answer.splitlines()[-1]) | {"runs": args.runs}
        print(json.dumps({name: results[name]}, indent=1), flush=True)
        store(RESULTS, results)


if __name__ == "__main__":
    main()
