"""Does the picture show what the prompt says? A small detector, trained on true scenes and checked on others.

    python training/judge.py train                # 4 minutes on two cores
    python training/judge.py score --limit 100    # paints 100 prompts with the embedded model and judges them

The detector says, for each place of an 8x8 grid, which (noun, colour) pairs are there; the most certain place decides.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import conceptlens as cl
from conceptlens.bench.datasets.scenes import COLOURS, NOUNS, Scene, scenes
from conceptlens.bench.metrics import bootstrap_interval

RUN = Path(__file__).parent / "runs"
RESULTS = Path(__file__).parent / "results"
PAIRS = [(noun, colour) for noun in NOUNS for colour in COLOURS]


class Judge(nn.Module):
    """(batch, 3, 64, 64) in -1..1 to (batch, noun, colour) logits."""

    def __init__(self) -> None:
        super().__init__()
        widths, strides = (3, 32, 64, 128, 128, 128), (2, 2, 2, 1, 1)
        layers: list[nn.Module] = []
        for before, after, stride in zip(widths[:-1], widths[1:], strides, strict=True):
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(128, len(PAIRS), 1))

    def forward(self, pixels: Tensor) -> Tensor:
        places = self.body(pixels).flatten(2)
        return torch.logsumexp(4 * places, dim=2).div(4).sub(0.5).unflatten(1, (len(NOUNS), len(COLOURS)))


def targets(scene: Scene) -> Tensor:
    truth = torch.zeros(len(NOUNS), len(COLOURS))
    for item in scene.objects:
        truth[NOUNS.index(item.noun), list(COLOURS).index(item.colour)] = 1
    return truth


def as_pixels(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(steps: int, limit: int) -> None:
    torch.manual_seed(0)
    known = list(scenes("train", limit))
    pixels, truth = as_pixels(np.stack([s.image for s in known])), torch.stack([targets(s) for s in known])
    model = Judge().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for step in range(steps):
        picked = torch.randint(len(known), (64,))
        batch = pixels[picked] + 0.1 * torch.rand(1) * torch.randn(64, 3, 64, 64)
        if step % 2:
            batch = batch.flip(-1)
        if step % 4 == 3:
            batch = F.avg_pool2d(batch, 3, 1, 1)
        loss = F.binary_cross_entropy_with_logits(model(batch), truth[picked], pos_weight=torch.tensor(4.0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0 or step == steps - 1:
            print(f"{step:5d} loss {loss.item():.4f}", flush=True)
    torch.save(model.state_dict(), RUN / "judge.pt")
    print(json.dumps(check(model.eval())))


@torch.no_grad()
def check(model: Judge, limit: int = 500) -> dict[str, float]:
    """How often the judge is right on true scenes it has never seen."""
    known = list(scenes("validation", limit, offset=5000))
    found = model(as_pixels(np.stack([s.image for s in known]))) > 0
    truth = torch.stack([targets(s) for s in known]) > 0
    hits = (found & truth).sum().item()
    whole = [(f >= t).all().item() for f, t in zip(found, truth, strict=True)]
    return {
        "true scenes": limit,
        "pairs found (recall)": round(hits / truth.sum().item(), 4),
        "pairs right (precision)": round(hits / found.sum().item(), 4),
        "scenes with all pairs found": round(float(np.mean(whole)), 4),
    }


def prompts(limit: int, draw: int = 2024) -> list[tuple[str, list[tuple[str, str]]]]:
    """One- and two-object prompts with colours, drawn at random, half each."""
    rng = np.random.default_rng(draw)
    made = []
    for number in range(limit):
        nouns = [str(n) for n in rng.choice(NOUNS, 1 + number % 2, replace=False)]
        pairs = [(noun, str(rng.choice(list(COLOURS)))) for noun in nouns]
        text = " and ".join(f"{'an' if colour[0] == 'o' else 'a'} {colour} {noun}" for noun, colour in pairs)
        made.append((text, pairs))
    return made


@torch.no_grad()
def score(model: Judge, folder: str | None, limit: int, options: dict) -> dict:
    session = cl.load(folder)
    options = {**session.generate_defaults, **options}
    asked = prompts(limit)
    images, started = [], time.perf_counter()
    for first in range(0, limit, 20):
        part = asked[first : first + 20]
        generators = [torch.Generator().manual_seed(first + i) for i in range(len(part))]
        call = {**options, "negative_prompt": [options["negative_prompt"]] * len(part)}
        images += session.pipeline([text for text, _ in part], generator=generators, **call).images
    found = model(as_pixels(np.stack([np.asarray(i) for i in images]))) > 0
    rows = []
    for (text, pairs), seen in zip(asked, found, strict=True):
        right = [bool(seen[NOUNS.index(n), list(COLOURS).index(c)]) for n, c in pairs]
        there = [bool(seen[NOUNS.index(n)].any()) for n, _ in pairs]
        asked_nouns = {n for n, _ in pairs}
        others = [noun for noun, colours in zip(NOUNS, seen, strict=True) if colours.any() and noun not in asked_nouns]
        rows.append({"prompt": text, "right": all(right), "objects": float(np.mean(there)), "others": len(others)})
    pixels = [np.asarray(image) for image in images]
    sheet = np.concatenate([np.concatenate(pixels[row : row + 20], axis=1) for row in range(0, limit, 20)])
    Image.fromarray(sheet).save(RUN / "judged.png")
    right = np.array([row["right"] for row in rows], float)
    return {
        "prompts": limit,
        "painted right": round(right.mean(), 4),
        "interval95": [round(v, 4) for v in bootstrap_interval(right)],
        "one object": round(right[::2].mean(), 4),
        "two objects": round(right[1::2].mean(), 4),
        "pictures with an object that nobody asked for": round(float(np.mean([row["others"] > 0 for row in rows])), 4),
        "objects present": round(float(np.mean([row["objects"] for row in rows])), 4),
        "judge on true scenes": check(model),
        "options": options,
        "seconds": round(time.perf_counter() - started, 1),
        "wrong": [row["prompt"] for row in rows if not row["right"]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["train", "score"])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--scenes", type=int, default=10000)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--folder")
    parser.add_argument("--options", type=json.loads, default={})
    parser.add_argument("--save", action="store_true", help="keep the result under training/results")
    args = parser.parse_args()
    if args.task == "train":
        train(args.steps, args.scenes)
        return
    model = Judge()
    model.load_state_dict(torch.load(RUN / "judge.pt"))
    result = score(model.eval(), args.folder, args.limit, args.options)
    if args.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "painting.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "wrong"}, indent=1))


if __name__ == "__main__":
    main()
