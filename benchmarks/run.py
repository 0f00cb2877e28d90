"""What maps cost: ratios measured side by side in one run.

    make bench                              # minutes: the embedded model, and a FLUX-width model at 1024 image tokens
    .venv/bin/python benchmarks/run.py --slow   # also at 4096 image tokens, guidance, memory: ten minutes on two cores

Each pair is timed in alternation and the ratio is that of the medians. `inside` is the share of the forward that was
spent in our own hooks, measured in the same runs: a steadier figure than the difference of two noisy times. Results
go to `benchmarks/results.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from stored import store
from torch import nn

import conceptlens as cl
from conceptlens.bench.datasets.scenes import make_scene
from conceptlens.families import adapter_for
from conceptlens.families.base import Concepts
from conceptlens.guidance import TSAM, demo_folder, guide
from conceptlens.guidance.result import GuidedResult
from conceptlens.ops.joint_bilateral import joint_bilateral
from conceptlens.ops.precision import cpu_dtype
from conceptlens.readers.reading import record_call
from conceptlens.readers.stream import ConceptProbe
from conceptlens.values.recipe import REFINEMENTS, Recipe, Refinement
from conceptlens.watch.recorder import Recorder

RESULTS = Path(__file__).parent / "results.json"
CONCEPTS = ("house", "tree", "sun", "sky", "grass")


def alternate(runs: int, clock: Callable[[], float] = time.perf_counter, **jobs: Callable[[], Any]) -> dict[str, float]:
    """Median seconds of each job, timed in turn after one warm-up each."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(runs + 1):
        for name, job in jobs.items():
            started = clock()
            job()
            if turn:
                times[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def ratios(seconds: dict[str, float], base: str) -> dict[str, float]:
    told = {f"{name} seconds": round(value, 5) for name, value in seconds.items()}
    return told | {f"{name} / {base}": round(v / seconds[base], 4) for name, v in seconds.items() if name != base}


def demo(runs: int) -> dict[str, Any]:
    session = cl.load(device="cpu")
    prompt, picture = "a red house and a tree under the sun", Image.fromarray(make_scene(1).image)

    def plain() -> None:
        session.pipeline(prompt, generator=torch.Generator().manual_seed(0), **session.generate_defaults)

    record = session.read(picture)
    full = session.read(picture, layers=None).layers
    generation = alternate(runs, plain=plain, maps=lambda: session.generate(prompt, CONCEPTS, seed=0))
    asking = alternate(
        3 * runs,
        rerun=lambda: session.generate(prompt, CONCEPTS, seed=0),
        reread=lambda: session.probe(session.read(picture), CONCEPTS),
        probe=lambda: session.probe(record, CONCEPTS),
    )
    return {
        "generate": ratios(generation, "plain"),
        "ask again": ratios(asking, "probe"),
        "record bytes": sum(layer.nbytes for layer in full),
    }


def batches(runs: int, count: int = 16) -> dict[str, Any]:
    """Pictures a second, read and probed one after another and in one batch, in time of the processor on one thread."""
    session = cl.load(device="cpu")
    pictures = [Image.fromarray(make_scene(number).image) for number in range(count)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = alternate(
            runs,
            time.process_time,
            **{
                "one after another": lambda: [session.probe(session.read(each), CONCEPTS) for each in pictures],
                "together": lambda: session.probe(session.read(pictures, batch=count), CONCEPTS, batch=count),
            },
        )
    finally:
        torch.set_num_threads(threads)
    speed = {f"pictures a second, {name}": round(count / spent, 1) for name, spent in seconds.items()}
    times = round(seconds["one after another"] / seconds["together"], 2)
    return speed | {"as many times": times, "batch": count, "threads": 1}


def growth(readings: int = 1000, probes: int = 10_000) -> dict[str, Any]:
    """Megabytes at most that the process has held, after a tenth of many readings and probes, and after all."""
    session = cl.load(device="cpu")
    pictures = [Image.fromarray(make_scene(number).image) for number in range(20)]

    def peaks(count: int, job: Callable[[int], object]) -> list[int]:
        seen = []
        for number in range(count):
            job(number)
            if number + 1 in (count // 10, count):
                seen.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return seen

    reading = peaks(readings, lambda number: session.read(pictures[number % 20]))
    record = session.read(pictures[0])
    warnings.simplefilter("ignore")  # the model was never trained on these words
    probing = peaks(probes, lambda number: session.probe(record, ("house", f"thing {number % 1000}")))
    return {
        f"MB after {readings // 10} and {readings} readings": reading,
        f"MB after {probes // 10} and {probes} probes for 1000 different words": probing,
    }


def wide_transformer(dtype: torch.dtype, dual: int = 2, single: int = 2, device: str = "cpu") -> FluxTransformer2DModel:
    """FLUX.1's width with so many blocks of each kind, random weights."""
    with torch.device("meta"):
        model = FluxTransformer2DModel(num_layers=dual, num_single_layers=single, guidance_embeds=False)
    model = model.to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    for weight in model.parameters():
        weight.data.normal_(0, 0.02, generator=generator) if weight.ndim > 1 else weight.data.fill_(0.5)
    return model.eval()


def wide_call(side: int, dtype: torch.dtype, batch: int = 1) -> dict[str, Any]:
    """The transformer's arguments for square pictures of `side` x `side` tokens."""
    ids = torch.zeros(side, side, 3)
    ids[..., 1], ids[..., 2] = torch.arange(side)[:, None], torch.arange(side)
    return {
        "hidden_states": torch.randn(batch, side * side, 64, dtype=dtype),
        "encoder_hidden_states": torch.randn(batch, 512, 4096, dtype=dtype),
        "pooled_projections": torch.randn(batch, 768, dtype=dtype),
        "timestep": torch.full((batch,), 0.5, dtype=dtype),
        "img_ids": ids.flatten(0, 1),
        "txt_ids": torch.zeros(512, 3),
    }


def wide(side: int, runs: int) -> dict[str, Any]:
    dtype = cpu_dtype()
    adapter = adapter_for(wide_transformer(dtype))
    call = wide_call(side, dtype)
    concepts = Concepts(CONCEPTS, torch.randn(5, 4096, dtype=dtype), torch.zeros(768))
    recipe = Recipe().resolve(2)
    inside: list[float] = []

    def plain() -> None:
        adapter.transformer(**call, return_dict=False)

    def with_maps() -> None:
        spent = [0.0]
        probe = ConceptProbe(adapter, concepts, recipe)
        recorder = Recorder(adapter, probe, last=1, outputs=frozenset((0, 1)))
        finish = recorder.finish_block

        def timed(layer: int, block: nn.Module) -> None:
            started = time.perf_counter()
            finish(layer, block)
            spent[0] += time.perf_counter() - started

        recorder.finish_block = timed  # type: ignore[method-assign]
        started = time.perf_counter()
        with recorder:
            adapter.transformer(**call, return_dict=False)
        inside.append(spent[0] / (time.perf_counter() - started - spent[0]))

    def replay() -> None:
        probe = ConceptProbe(adapter, concepts, recipe)
        for layer in records:
            probe(adapter.blocks()[layer.layer], layer)

    with torch.no_grad():
        records = record_call(adapter, call, recipe)
        seconds = alternate(
            runs, plain=plain, maps=with_maps, read=lambda: record_call(adapter, call, recipe), probe=replay
        )
    told = ratios(seconds, "plain")
    return told | {
        "inside our hooks / plain": round(statistics.median(inside), 4),
        "plain / probe": round(seconds["plain"] / seconds["probe"], 1),
        "image tokens": side * side,
        "dtype": str(dtype).removeprefix("torch."),
        "record bytes": sum(layer.nbytes for layer in records),
    }


def refining(side: int, runs: int) -> dict[str, Any]:
    """Replays of one layer with each refinement, beside the forward of a double and a single block."""
    dtype = cpu_dtype()
    adapter = adapter_for(wide_transformer(dtype, 1, 1))
    call, concepts = wide_call(side, dtype), Concepts(CONCEPTS, torch.randn(5, 4096, dtype=dtype), torch.zeros(768))
    pixels = torch.randint(0, 255, (16 * side, 16 * side, 3), dtype=torch.uint8).numpy()
    scores = torch.rand(len(CONCEPTS), side, side).softmax(0)

    def replay(name: Refinement | None) -> Callable[[], None]:
        def job() -> None:
            probe = ConceptProbe(adapter, concepts, Recipe(refine=() if name is None else (name,)).resolve(1))
            probe(adapter.blocks()[0], records[0])
            probe.scores.mean()

        return job

    with torch.no_grad():
        records = record_call(adapter, call, Recipe(refine=("self-attention",)).resolve(1))
        jobs = {name: replay(name) for name in REFINEMENTS if name != "joint-bilateral"}
        picture = Image.fromarray(pixels)
        seconds = alternate(
            runs,
            plain=lambda: adapter.transformer(**call, return_dict=False),
            unrefined=replay(None),
            **jobs,
            **{"joint-bilateral": lambda: joint_bilateral(scores, picture, compete=True)},
        )
    return ratios(seconds, "plain") | {
        "image tokens": side * side,
        "record bytes of a layer": sum(t.nbytes for n, t in records[0].tensors.items() if n != "query"),
        "bytes of its queries": records[0].part("query").nbytes,
    }


def guided(runs: int) -> dict[str, Any]:
    """Half of the steps guided, as in the T-SAM paper, on Stable Diffusion 1.5's U-Net at 512x512, random weights.

    The text encoder is the embedded one, and so is the decoder, which is small: the ratio is rather too high.
    """
    pipeline = StableDiffusionPipeline.from_pretrained(demo_folder(), dtype=torch.float32, safety_checker=None)
    torch.manual_seed(0)
    width = pipeline.text_encoder.config.hidden_size
    pipeline.unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=width, attention_head_dim=8).eval()
    pipeline.set_progress_bar_config(disable=True)
    side = 64 * pipeline.vae_scale_factor
    call = {"seed": 0, "num_inference_steps": 2, "height": side, "width": side}

    def paint(alpha: float) -> GuidedResult:
        method = TSAM.preset("paper-ae", alpha=alpha, attention_size=(16, 16), steps=range(1))
        return guide(pipeline, "a red house and a blue boat", method, **call)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for times of the processor: minutes long, they would meet other work on the clock
    try:
        seconds = alternate(runs, time.process_time, plain=lambda: paint(0), tsam=lambda: paint(10))
    finally:
        torch.set_num_threads(threads)
    return ratios(seconds, "plain") | {"threads": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slow", action="store_true", help="also 4096 image tokens, guidance, and memory")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="", help="only the parts whose name has this text")
    args = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["setting"] = {
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "concepts": len(CONCEPTS),
    }
    jobs = {
        "embedded model": lambda: demo(args.runs),
        "batches on the embedded model": lambda: batches(args.runs),
        "FLUX width, 1024 image tokens": lambda: wide(32, args.runs),
        "refinements at FLUX width, 1024 image tokens": lambda: refining(32, args.runs),
    }
    if args.slow:
        jobs["memory of many pictures"] = growth
        jobs["FLUX width, 4096 image tokens"] = lambda: wide(64, args.runs)
        jobs["guidance, Stable Diffusion 1.5's U-Net"] = lambda: guided(args.runs)
    for name, job in jobs.items():
        if args.only not in name:
            continue
        results[name] = job() | {"runs": args.runs}
        print(json.dumps({name: results[name]}, indent=1), flush=True)
        store(RESULTS, results)


if __name__ == "__main__":
    main()
