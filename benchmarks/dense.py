"""Heads on a frozen model: what is at each pixel of a scene, from its features, beside its raw maps.

    python benchmarks/dense.py                     # the embedded model
    python benchmarks/dense.py --model zoo:neutral  # one that was never taught where things are

A linear head and a decoder of two layers are trained on `conceptlens.Extractor.features` of training scenes and judged
on validation scenes: share of pixels and mean IoU over the concepts. Raw maps are asked for all concepts at once, and,
as an easier task, for those of each scene. Results go to `benchmarks/dense.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import conceptlens as cl
from conceptlens.bench.datasets.scenes import CONCEPTS, scenes

RESULTS = Path(__file__).parent / "dense.json"
BATCH = 16


def data(split: Literal["train", "validation"], count: int) -> tuple[Tensor, Tensor, list[tuple[str, ...]]]:
    """Pictures in 0..1, the concept of each pixel as its number in `CONCEPTS`, and the concepts of each scene."""
    drawn = list(scenes(split, count))
    pictures = torch.stack([torch.from_numpy(scene.image.copy()) for scene in drawn]).movedim(-1, 1) / 255
    labels = []
    for scene in drawn:
        numbers = torch.tensor([CONCEPTS.index(name) for name in scene.concepts])
        labels.append(numbers[torch.from_numpy(scene.labels.astype("int64"))])
    return pictures, torch.stack(labels), [scene.concepts for scene in drawn]


@torch.inference_mode()
def vectors(extractor: cl.Extractor, pictures: Tensor) -> Tensor:
    """Attention outputs and states of all wanted blocks, (picture, dim, rows, cols)."""
    found = []
    for batch in pictures.split(BATCH):
        dense = extractor.features(batch)
        found.append(torch.cat([*dense.outputs.values(), *dense.states.values()], dim=-1).movedim(-1, 1))
    whole = torch.cat(found)
    return (whole - whole.mean((0, 2, 3), keepdim=True)) / whole.std((0, 2, 3), keepdim=True)


def heads(width: int) -> dict[str, nn.Module]:
    count = len(CONCEPTS)
    return {
        "linear head": nn.Conv2d(width, count, 1),
        "two-layer decoder": nn.Sequential(
            nn.Conv2d(width, 128, 3, padding=1), nn.GELU(), nn.Conv2d(128, 16 * count, 1), nn.PixelShuffle(4)
        ),
    }


def train(head: nn.Module, given: Tensor, labels: Tensor, epochs: int) -> None:
    optimizer = torch.optim.AdamW(head.parameters(), 1e-3, weight_decay=1e-2)
    steps = epochs * -(-len(given) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(given)).split(BATCH):
            loss = F.cross_entropy(upsampled(head(given[chosen]), labels), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def upsampled(scores: Tensor, labels: Tensor) -> Tensor:
    return F.interpolate(scores, labels.shape[-2:], mode="bilinear")


def judge(guess: Tensor, labels: Tensor) -> dict[str, float]:
    """Share of pixels, and mean intersection over union of the concepts that are there."""
    count = len(CONCEPTS)
    table = torch.bincount((labels * count + guess).flatten(), minlength=count**2).view(count, count).double()
    both, there = table.diagonal(), table.sum(1) > 0
    shares = both / (table.sum(0) + table.sum(1) - both).clamp_min(1)
    return {"pixels": round(float(both.sum() / table.sum()), 4), "mean IoU": round(float(shares[there].mean()), 4)}


@torch.inference_mode()
def raw(extractor: cl.Extractor, pictures: Tensor, labels: Tensor, asked: list[tuple[str, ...]]) -> dict[str, Any]:
    every = torch.cat([extractor(batch, CONCEPTS) for batch in pictures.split(BATCH)])
    told = []
    for picture, names in zip(pictures, asked, strict=True):
        best = upsampled(extractor(picture[None], names), labels).argmax(1)
        told.append(torch.tensor([CONCEPTS.index(name) for name in names])[best])
    return {
        "raw maps, all concepts asked": judge(upsampled(every, labels).argmax(1), labels),
        "raw maps, told what is there": judge(torch.cat(told), labels),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--train", type=int, default=384, help="training scenes")
    parser.add_argument("--validate", type=int, default=128, help="validation scenes")
    parser.add_argument("--epochs", type=int, default=15)
    args = parser.parse_args()
    torch.manual_seed(0)
    model = args.model
    if model.startswith("zoo:"):
        model = str(Path(__file__).parents[1] / "zoo" / model.removeprefix("zoo:"))
    extractor = cl.Extractor(model, noise=0.25)
    pictures, labels, _ = data("train", args.train)
    seen, truth, asked = data("validation", args.validate)
    results: dict[str, Any] = raw(extractor, seen, truth, asked)
    given, judged = vectors(extractor, pictures).clone(), vectors(extractor, seen).clone()
    for name, head in heads(given.shape[1]).items():
        train(head, given, labels, args.epochs)
        with torch.no_grad():
            guess = torch.cat([upsampled(head(part), truth).argmax(1) for part in judged.split(BATCH)])
        weights = sum(weight.numel() for weight in head.parameters())
        results[name] = judge(guess, truth) | {"weights": weights}
    whole = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    whole[args.model] = results | {"training scenes": args.train, "validation scenes": args.validate}
    RESULTS.write_text(json.dumps(whole, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
