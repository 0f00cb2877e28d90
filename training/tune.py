"""Which recipe suits the model? Noise level, layers and draws, by mean IoU on validation scenes.

    python training/tune.py --limit 60

The softmax is per layer, so one reading with all layers kept scores every set of consecutive layers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import conceptlens as cl
from conceptlens.bench.datasets import dataset_named
from conceptlens.bench.protocol import protocol_named
from conceptlens.bench.scoring import score_image

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--folder")
    parser.add_argument("--noises", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.4, 0.5])
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--raw", action="store_true")
    args = parser.parse_args()
    session = cl.load(args.folder, device="cpu")
    depth = len(session.pipeline.transformer.transformer_blocks)
    spans = [range(first, last + 1) for first in range(depth) for last in range(first, depth)]
    data = dataset_named("scenes").open(None, split="validation")
    rules = protocol_named("fixed", type(data), "concept-attention", streams=True)
    table: list[dict] = []
    for noise in args.noises:
        found: dict[range, list[dict[str, float]]] = {span: [] for span in spans}
        for id_ in data.ids()[: args.limit]:
            sample = data.sample(id_)
            record = session.read(sample.image, seed=int(id_), noise=noise, layers=range(depth), samples=args.samples)
            concepts = rules.concepts(sample, data.classes)
            maps = session.probe(record, [name for name, _ in concepts], keep=True, softmax=not args.raw)
            assert maps.parts is not None
            for span in spans:
                scores = maps.parts[0, list(span)].mean(0)
                scored = score_image(scores, concepts, sample, len(data.classes), rules, background=False)
                found[span].append(scored.scores)
        for span, rows in found.items():
            means = {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}
            table.append({"noise": noise, "layers": [span[0], span[-1]], "samples": args.samples, **means})
    table.sort(key=lambda row: -row["iou"])
    for row in table[:12]:
        print(json.dumps(row))
    print("by noise, all layers:")
    for row in (r for r in table if r["layers"] == [0, depth - 1]):
        print(json.dumps(row))
    RESULTS.mkdir(exist_ok=True)
    told = {"split": "validation", "images": args.limit, "softmax": not args.raw, "best": table[:12]}
    (RESULTS / "recipe.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
