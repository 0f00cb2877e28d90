"""Which recipe suits a model? Noise level, layers, space and reading, by mean IoU on validation scenes.

    python training/tune.py --limit 60
    python training/tune.py --folder zoo/neutral --noises 0.25 --limit 30 --variants all --log neutral

The softmax is per layer, so one reading with all layers kept scores every set of consecutive layers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import conceptlens as cl
from conceptlens.bench.datasets import dataset_named
from conceptlens.bench.protocol import protocol_named
from conceptlens.bench.scoring import score_image
from conceptlens.session import Session

RESULTS = Path(__file__).parent / "results"
SPACES = ("output", "cross", "value")
READINGS = {
    "reads the image": {"self_attention": False},
    "reads the concepts": {"cross_attention": False},
    "reads nothing": {"self_attention": False, "cross_attention": False},
}
VARIANTS: dict[str, dict[str, Any]] = {
    **{space: {"space": space, "softmax": True} for space in SPACES},
    **{f"{space}, raw": {"space": space, "softmax": False} for space in SPACES},
    **{f"output, {name}": {"space": "output", "softmax": True, **options} for name, options in READINGS.items()},
}
"""By name, options of `probe`. Unless said otherwise, concepts read image and concepts."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--folder")
    parser.add_argument("--noises", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.4, 0.5])
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--variants", nargs="+", default=["output"], choices=[*VARIANTS, "all"])
    parser.add_argument("--log", help="append the best rows to this file of training/results, with --note")
    parser.add_argument("--note", type=json.loads, default={}, help='JSON: {"steps": 2000}')
    return parser.parse_args()


def table(session: Session, args: argparse.Namespace, variants: list[str]) -> list[dict[str, Any]]:
    """One row per variant, noise level and set of consecutive layers: means over the scenes."""
    depth = len(session.pipeline.transformer.transformer_blocks)
    spans = [(first, last) for first in range(depth) for last in range(first, depth)]
    data = dataset_named("scenes").open(None, split="validation")
    rules = protocol_named("fixed", type(data), "concept-attention", streams=True)
    found: dict[tuple, list[dict[str, float]]] = {}
    for noise in args.noises:
        for id_ in data.ids()[: args.limit]:
            sample = data.sample(id_)
            options = {"noise": noise, "layers": range(depth), "samples": args.samples, "space": "cross"}
            record = session.read(sample.image, seed=int(id_), **options)
            concepts = rules.concepts(sample, data.classes)
            asked = [name for name, _ in concepts]
            for variant in variants:
                parts = session.probe(record, asked, keep=True, **VARIANTS[variant]).parts
                assert parts is not None
                for first, last in spans:
                    scores = parts[0, first : last + 1].mean(0)
                    scored = score_image(scores, concepts, sample, len(data.classes), rules, background=False)
                    found.setdefault((variant, noise, first, last), []).append(scored.scores)
    rows = []
    for (variant, noise, first, last), scores in found.items():
        means = {name: round(float(np.mean([s[name] for s in scores])), 4) for name in scores[0]}
        rows.append({"variant": variant, "noise": noise, "layers": [first, last], "samples": args.samples, **means})
    return sorted(rows, key=lambda row: -row["iou"])


def append(log: Path, entry: dict[str, Any]) -> None:
    """Adds one entry to a JSON list of them."""
    entries = json.loads(log.read_text()) if log.exists() else []
    log.write_text(json.dumps([*entries, entry], indent=1) + "\n")


def main() -> None:
    args = arguments()
    variants = list(VARIANTS) if "all" in args.variants else args.variants
    session = cl.load(args.folder, device="cpu")
    rows = table(session, args, variants)
    best, shown = rows[0], []
    for variant in variants:
        of_it = [row for row in rows if row["variant"] == variant]
        like_best = [r for r in of_it if (r["layers"], r["noise"]) == (best["layers"], best["noise"])]
        top = of_it[: 12 if len(variants) == 1 else 2]
        shown += top + [row for row in like_best if row not in top]
    for row in shown:
        print(json.dumps(row))
    print("by noise, first variant, all layers:")
    widest = max(row["layers"][1] for row in rows)
    for row in rows:
        if row["layers"] == [0, widest] and row["variant"] == variants[0]:
            print(json.dumps(row))
    RESULTS.mkdir(exist_ok=True)
    scored = {"split": "validation", "images": args.limit, "torch": torch.__version__, "best": shown}
    if args.log:
        append(RESULTS / f"{args.log}.json", {**args.note, **scored})
    else:
        (RESULTS / "recipe.json").write_text(json.dumps(scored, indent=1) + "\n")


if __name__ == "__main__":
    main()
