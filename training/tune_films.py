"""Which recipe suits a video model? Noise level, layers and space, by mean IoU on validation films; and which layers
lead an object's cells to that object in the next latent frame.

    python training/tune_films.py --folder zoo/film --limit 20

The softmax is per layer, so one reading with all layers kept scores every set of layers: those that follow one another,
and all pairs.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

import conceptlens as cl
from conceptlens.bench.datasets.moving import films
from conceptlens.bench.films.measuring import match_hits, segmentation_scores
from conceptlens.session import Session
from tune import RESULTS, SPACES, append


def layer_sets(depth: int) -> list[tuple[int, ...]]:
    """Layers that follow one another, and all pairs."""
    runs = [tuple(range(first, last + 1)) for first in range(depth) for last in range(first, depth)]
    return list(dict.fromkeys([*runs, *combinations(range(depth), 2)]))


def table(session: Session, limit: int, noises: list[float]) -> list[dict[str, Any]]:
    """One row per space, noise level and set of layers: mean IoU over the films, best first."""
    layers = range(session.depth)
    found: dict[tuple[str, bool, float, tuple[int, ...]], list[float]] = defaultdict(list)
    for film in films("validation", limit):
        for noise in noises:
            record = session.read(film.clip, seed=film.seed, noise=noise, layers=layers, space="cross")
            for space in SPACES:
                for softmax in (True, False):
                    options = {"space": space, "softmax": softmax, "background": False, "keep": True}
                    maps = session.probe(record, film.concepts, **options)
                    for chosen in layer_sets(session.depth):
                        scores = maps.parts[0, list(chosen)].mean(0)
                        labels = replace(maps, scores=scores).segmentation()
                        found[space, softmax, noise, chosen].append(segmentation_scores(labels, film)["miou"])
    rows = [
        {"space": space, "softmax": softmax, "noise": noise, "layers": list(chosen), "miou": round(np.mean(ious), 4)}
        for (space, softmax, noise, chosen), ious in found.items()
    ]
    return sorted(rows, key=lambda row: -row["miou"])


def following(session: Session, limit: int, noise: float) -> list[dict[str, Any]]:
    """One row per layer and pair of layers: how often its attention leads from an object to that object, best first."""
    found: dict[tuple[int, ...], list[float]] = defaultdict(list)
    for film in films("validation", limit):
        record = session.read(film.clip, seed=film.seed, noise=noise, layers=range(session.depth), space="cross")
        for chosen in (layers for layers in layer_sets(session.depth) if len(layers) < 3):
            maps = session.probe(record, film.concepts, space="output", background=False, layers=chosen)
            hit = match_hits(maps, film)["hits"]
            if hit is not None:
                found[chosen].append(hit)
    rows = [{"follows": list(chosen), "share": round(np.mean(hits), 4)} for chosen, hits in found.items()]
    return sorted(rows, key=lambda row: -row["share"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--noises", type=float, nargs="+", default=[0.1, 0.25, 0.4, 0.55])
    parser.add_argument("--log", help="append the best rows to this file of training/results, with --note")
    parser.add_argument("--note", type=json.loads, default={}, help='JSON: {"steps": 2000}')
    args = parser.parse_args()
    session = cl.load(Path(args.folder), device="cpu")
    rows = table(session, args.limit, args.noises)
    shown = []
    for space in SPACES:
        for softmax in (True, False):
            shown += [row for row in rows if (row["space"], row["softmax"]) == (space, softmax)][:4]
    shown += following(session, args.limit, shown[0]["noise"])[:4]
    for row in shown:
        print(json.dumps(row))
    if args.log:
        append(RESULTS / f"{args.log}.json", {**args.note, "split": "validation", "films": args.limit, "best": shown})


if __name__ == "__main__":
    main()
