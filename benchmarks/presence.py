"""Is it in the picture? ROC-AUC of presence scores on validation scenes, whose concepts are known.

.venv/bin/python benchmarks/presence.py --limit 60              # a minute on two cores; prints one JSON line
.venv/bin/python benchmarks/presence.py --calibrate --limit 400  # minutes; writes the curves of the embedded model

Every concept that a scene can hold is asked of every scene; most are absent. Judged are the first scenes of the
validation split; the curves are fitted on others, from number `FITTED_FROM` on. The sky is in every scene, so it has
no curve and is left out. `chance` is the calibrated answer, pooled over all pairs, so one threshold must serve all
concepts and pictures; `score` is what it is made of; `mean of blocks` takes the recipe's blocks for it, `softmax` the
highest softmax score of the concept among all.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

import conceptlens as cl
from conceptlens.bench.datasets.scenes import CONCEPTS, GROUNDS, NOUNS, scenes
from conceptlens.bench.metrics import roc_auc
from conceptlens.presence import ModelCalibration, calibrate, standing
from conceptlens.readers.loading import DEFAULTS_FILE, demo_folder
from conceptlens.session import Session
from conceptlens.values.records import ImageRecord

FITTED_FROM = 1000
LAYERS = (5,)
"""The last dual-stream block; chosen on 180 validation scenes, most of which are not among the judged."""
JUDGED = [name for name in CONCEPTS if name != "sky"]


def scores(session: Session, record: ImageRecord, layers: tuple[int, ...]) -> list[float]:
    """The scores of all concepts, each against the others, as in `conceptlens.presence`."""
    maps = session.probe(record, CONCEPTS, softmax=False, isolate=True, layers=layers)
    raw = maps.scores.double().numpy()
    return [standing(raw[own], np.delete(raw, own, 0)) for own in range(len(CONCEPTS))]


def look(session: Session, limit: int, offset: int = 0) -> dict[str, np.ndarray]:
    """Scores of each kind, and what is there: arrays of (scene, concept)."""
    found: dict[str, list[list[float]]] = {"score": [], "mean of blocks": [], "softmax": [], "there": []}
    for scene in scenes("validation", limit, offset):
        record = session.read(Image.fromarray(scene.image), seed=scene.seed)
        found["score"].append(scores(session, record, LAYERS))
        found["mean of blocks"].append(scores(session, record, record.recipe.layers or ()))
        found["softmax"].append(session.probe(record, CONCEPTS).scores.amax(dim=(1, 2)).tolist())
        found["there"].append([name in scene.concepts for name in CONCEPTS])
    return {name: np.array(rows) for name, rows in found.items()}


def fit(session: Session, limit: int) -> None:
    """Writes a curve for each concept into the embedded model's `conceptlens.json`."""
    found = look(session, limit, FITTED_FROM)
    curves: dict[str, list[float]] = {}
    for name in JUDGED:
        column = CONCEPTS.index(name)
        curve = calibrate(found["score"][:, column], found["there"][:, column].astype(bool))
        curves[name] = [round(curve.slope, 4), round(curve.intercept, 4)]
    path = Path(demo_folder()) / DEFAULTS_FILE
    told = json.loads(path.read_text())
    told["presence"] = {"layers": list(LAYERS), "noise": session.recipe().noise, "scenes": limit, "curves": curves}
    part = path.with_suffix(".part")
    part.write_text(json.dumps(told, indent=2) + "\n")
    part.rename(path)


def interval(values: np.ndarray, truth: np.ndarray, draws: int = 500) -> list[float]:
    """95% bootstrap interval over scenes of the pooled ROC-AUC; arrays are (scene, concept)."""
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(values), (draws, len(values)))
    return [round(float(v), 4) for v in np.quantile([roc_auc(values[p], truth[p]) for p in picks], [0.025, 0.975])]


def judge(session: Session, limit: int) -> dict[str, object]:
    found, measured = look(session, limit), ModelCalibration.of(session)
    assert measured is not None, "no curves; run with --calibrate first"
    there = found.pop("there").astype(bool)
    found["chance"] = np.full(there.shape, np.nan)
    for name, curve in measured.curves.items():
        column = CONCEPTS.index(name)
        found["chance"][:, column] = [curve.chance(value) for value in found["score"][:, column]]
    groups = {"all but the sky": JUDGED, "objects": NOUNS, "grounds": GROUNDS}
    columns = {group: [CONCEPTS.index(name) for name in names] for group, names in groups.items()}
    judged = columns["all but the sky"]
    chance, true = found["chance"][:, judged], there[:, judged]
    return {
        "model": session.model_id,
        "scenes": limit,
        "pairs": int(true.size),
        "present": round(float(true.mean()), 4),
        "ROC-AUC": {
            kind: {group: round(roc_auc(values[:, c], there[:, c]), 4) for group, c in columns.items()}
            for kind, values in found.items()
        },
        "interval95 of chance": interval(chance, true),
        "each": {n: round(roc_auc(found["chance"][:, c], there[:, c]), 3) for n, c in zip(JUDGED, judged, strict=True)},
        "right": round(float(((chance > 0.5) == true).mean()), 4),
        "Brier score": round(float(((chance - true) ** 2).mean()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--model", help="a folder; the embedded model if not given")
    parser.add_argument("--calibrate", action="store_true", help="fit and write the curves")
    args = parser.parse_args()
    session = cl.load(args.model, device="cpu")
    if args.calibrate:
        fit(session, args.limit)
    else:
        print(json.dumps(judge(session, args.limit)))


if __name__ == "__main__":
    main()
