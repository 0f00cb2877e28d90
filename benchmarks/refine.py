"""Do doubtful pixels err, and do masks that follow edges fit better? On validation scenes, whose masks are exact.

.venv/bin/python benchmarks/refine.py --limit 60   # a minute on two cores; prints one JSON line

Concepts are those of the scene; a pixel is wrong when another concept wins it. ROC-AUC is of telling wrong pixels
from right ones, pooled over all pixels; `abstain` leaves out that share of each picture. `mean IoU` is the mean over a
scene's concepts, then over scenes.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from PIL import Image

import conceptlens as cl
from conceptlens.bench.datasets.scenes import Scene, scenes
from conceptlens.bench.metrics import roc_auc
from conceptlens.ops.doubt import doubt
from conceptlens.ops.grids import resize

DRAWS, ABSTAIN = 8, 0.2


def judged(maps: cl.ConceptMaps, scene: Scene) -> tuple[float, float]:
    """Mean IoU, and accuracy on the pixels that were not abstained from."""
    won = maps.segmentation()
    ious = []
    for number in range(len(scene.concepts)):
        own, true = won == number, scene.labels == number
        ious.append((own & true).sum() / max(1, (own | true).sum()))
    return float(np.mean(ious)), float((won == scene.labels)[won >= 0].mean())


def signals(maps: cl.ConceptMaps) -> dict[str, np.ndarray]:
    """What might tell wrong pixels, each higher where they are to be expected."""
    assert maps.spread is not None
    scores, spread = maps.pixels(), resize(maps.spread, maps.image.height, maps.image.width)
    best, who = scores.max(dim=0, keepdim=True)
    return {
        "spread of the winner": spread.gather(0, who)[0].numpy(),
        "mean spread": spread.mean(dim=0).numpy(),
        "low score": -best[0].numpy(),
        "doubt without spread": doubt(scores).numpy(),
        "doubt": maps.doubt(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=60)
    args = parser.parse_args()
    session = cl.load(device="cpu")
    wrong, told, fits = [], {}, {}
    for scene in scenes("validation", args.limit):
        picture = Image.fromarray(scene.image)
        one = session.probe(session.read(picture, seed=scene.seed), scene.concepts)
        maps = session.probe(session.read(picture, seed=scene.seed, samples=DRAWS), scene.concepts)
        wrong.append(maps.segmentation() != scene.labels)
        for name, values in signals(maps).items():
            told.setdefault(name, []).append(values)
        for name, shown in {
            "one draw": one,
            "one draw, edges": one.refined(edges=True),
            "draws": maps,
            "draws, abstain": maps.refined(abstain=ABSTAIN),
            "draws, edges": maps.refined(edges=True),
            "draws, edges, abstain": maps.refined(edges=True, abstain=ABSTAIN),
        }.items():
            fits.setdefault(name, []).append(judged(shown, scene))
    error = np.stack(wrong)
    result = {
        "model": session.model_id,
        "scenes": args.limit,
        "draws": DRAWS,
        "abstain": ABSTAIN,
        "ROC-AUC of errors": {name: round(roc_auc(np.stack(v), error), 3) for name, v in told.items()},
        "mean IoU": {
            name: round(float(np.mean([f[0] for f in v])), 4) for name, v in fits.items() if "abs" not in name
        },
        "accuracy": {name: round(float(np.mean([f[1] for f in v])), 4) for name, v in fits.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
