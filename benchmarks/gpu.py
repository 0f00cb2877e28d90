"""What maps cost on a GPU, at FLUX.1's full size: random weights, 1024x1024 pixels, bfloat16; under ten minutes.

    .venv/bin/python benchmarks/gpu.py                          # 24 GB of weights; batches of 1 and 4
    .venv/bin/python benchmarks/gpu.py --device cpu --dual 1 --single 1 --side 8 --runs 1     # that the script works

Plain forwards, forwards with maps of five concepts in all dual-stream blocks, readings (which stop after the last of
these) and probes of a reading are timed in turn, by the clock with the device synchronised; ratios are of the medians.
`more peak memory` is what a job needs beyond the plain forward. Results go to `benchmarks/gpu.json`, with the card.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from run import CONCEPTS, wide_call, wide_transformer
from stored import store

from conceptlens.families import adapter_for
from conceptlens.families.base import Concepts, DiTAdapter
from conceptlens.readers.reading import record_call
from conceptlens.readers.stream import ConceptProbe
from conceptlens.values.recipe import Recipe
from conceptlens.watch.recorder import Recorder

RESULTS = Path(__file__).parent / "gpu.json"
Jobs = dict[str, Callable[[], Any]]


def jobs_of(adapter: DiTAdapter, call: dict[str, Any], recipe: Recipe) -> Jobs:
    """What is timed, on one batch."""
    concepts = Concepts(CONCEPTS, torch.randn(len(CONCEPTS), 4096).to(call["hidden_states"]), torch.zeros(768))
    assert recipe.layers is not None
    records = record_call(adapter, call, recipe)

    def plain() -> torch.Tensor:
        return adapter.transformer(**call, return_dict=False)[0]

    def maps() -> torch.Tensor:
        probe = ConceptProbe(adapter, concepts, recipe)
        with Recorder(adapter, probe, last=recipe.layers[-1], outputs=frozenset(recipe.layers)):
            seen = plain()
        probe.scores.mean()
        return seen

    def probe() -> None:
        replayed = ConceptProbe(adapter, concepts, recipe)
        for layer in records:
            replayed(adapter.blocks()[layer.layer], layer)
        replayed.scores.mean()

    assert torch.equal(plain(), maps()), "the forward is not bit-identical with maps"
    return {"plain": plain, "maps": maps, "read": lambda: record_call(adapter, call, recipe), "probe": probe}


def timed(jobs: Jobs, runs: int, device: torch.device) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds and peak megabytes of each job, in turn after one warm-up each."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    peaks = dict.fromkeys(jobs, 0.0)
    cuda = device.type == "cuda"
    for turn in range(runs + 1):
        for name, job in jobs.items():
            if cuda:
                torch.cuda.reset_peak_memory_stats()
                torch.cuda.synchronize()
            started = time.perf_counter()
            job()
            if cuda:
                torch.cuda.synchronize()
                peaks[name] = torch.cuda.max_memory_allocated() / 2**20
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(spent) for name, spent in seconds.items()}, peaks


def measured(adapter: DiTAdapter, side: int, batch: int, runs: int, device: torch.device) -> dict[str, Any]:
    dtype = adapter.transformer.dtype
    call = {name: value.to(device) for name, value in wide_call(side, dtype, batch).items()}
    jobs = jobs_of(adapter, call, Recipe().resolve(len(adapter.blocks())))
    seconds, peaks = timed(jobs, runs, device)
    plain = seconds["plain"]
    told: dict[str, Any] = {f"{name} seconds": round(spent, 5) for name, spent in seconds.items()}
    told |= {f"{name} / plain": round(spent / plain, 4) for name, spent in seconds.items() if name != "plain"}
    if device.type == "cuda":
        told["peak memory of a plain forward, MB"] = round(peaks["plain"])
        told |= {f"more peak memory of {name}, MB": round(peaks[name] - peaks["plain"]) for name in ("maps", "read")}
    return told | {"batch": batch, "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dual", type=int, default=19)
    parser.add_argument("--single", type=int, default=38)
    parser.add_argument("--side", type=int, default=64, help="image tokens along a side: 64 for 1024 pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here. --device cpu with a small --dual, --single and --side tries the script.")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    adapter = adapter_for(wide_transformer(dtype, args.dual, args.single, args.device))
    card = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    results: dict[str, Any] = {
        "device": card,
        "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."),
        "blocks": f"{args.dual} dual, {args.single} single",
        "image tokens": args.side**2,
        "concepts": len(CONCEPTS),
    }
    with torch.no_grad(), torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        for batch in args.batches:
            results[f"batch {batch}"] = measured(adapter, args.side, batch, args.runs, device)
            print(json.dumps({f"batch {batch}": results[f"batch {batch}"]}, indent=1), flush=True)
    store(args.out, results)


if __name__ == "__main__":
    main()
