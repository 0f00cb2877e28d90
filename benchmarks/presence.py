"""Is it in the picture? ROC-AUC of presence scores on validation scenes, whose concepts are known.

.venv/bin/python benchmarks/presence.py --limit 100   # minutes on two cores; prints one JSON line

Every concept that a scene can hold is asked of every scene; most are absent. `auc` pools all pairs, so one threshold
must serve all concepts and pictures; `objects` leaves out the sky and the grounds. `softmax` is what one would do
without null concepts: the highest softmax score of the concept among all. The calibration is fitted on the first half
of the scenes and judged on the second.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from PIL import Image

import conceptlens as cl
from conceptlens.bench.datasets.scenes import CONCEPTS, NOUNS, scenes
from conceptlens.bench.metrics import roc_auc
from conceptlens.presence import calibrate, presence


def interval(values: np.ndarray, truth: np.ndarray, draws: int = 500) -> list[float]:
    """95% bootstrap interval over scenes of the pooled ROC-AUC; arrays are (scene, concept)."""
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(values), (draws, len(values)))
    return [round(float(v), 4) for v in np.quantile([roc_auc(values[p], truth[p]) for p in picks], [0.025, 0.975])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--model", default=None)
    args = parser.parse_args()
    session = cl.load(args.model, device="cpu")
    scores, truth, plain = [], [], []
    for scene in scenes("validation", args.limit):
        record = session.read(Image.fromarray(scene.image), seed=scene.seed)
        scores.append([found.score for found in presence(session, record, CONCEPTS, nulls=CONCEPTS)])
        plain.append(session.probe(record, CONCEPTS).scores.amax(dim=(1, 2)).tolist())
        truth.append([name in scene.concepts for name in CONCEPTS])
    score, there, softmax = np.array(scores), np.array(truth), np.array(plain)
    objects = np.array([name in NOUNS for name in CONCEPTS])
    judged = there.any(axis=0) & ~there.all(axis=0)
    half = len(score) // 2
    curve = calibrate(score[:half].ravel(), there[:half].ravel())
    chances = np.array([curve.chance(value) for value in score[half:].ravel()])
    told = there[half:].ravel()
    result = {
        "model": session.model_id,
        "scenes": len(score),
        "pairs": int(score.size),
        "present": round(float(there.mean()), 4),
        "auc": round(roc_auc(score, there), 4),
        "interval95": interval(score, there),
        "objects": round(roc_auc(score[:, objects], there[:, objects]), 4),
        "softmax": round(roc_auc(softmax, there), 4),
        "softmax_objects": round(roc_auc(softmax[:, objects], there[:, objects]), 4),
        "each": {name: round(roc_auc(score[:, i], there[:, i]), 3) for i, name in enumerate(CONCEPTS) if judged[i]},
        "calibration": {"slope": curve.slope, "intercept": curve.intercept},
        "right_on_the_second_half": round(float(((chances > 0.5) == told).mean()), 4),
        "brier_on_the_second_half": round(float(((chances - told) ** 2).mean()), 4),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
