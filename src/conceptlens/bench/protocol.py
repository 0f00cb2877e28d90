"""Scoring a method on held-out scenes: which of the present concepts is at each pixel?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
from PIL import Image

from conceptlens.bench.datasets.scenes import Scene, scenes
from conceptlens.bench.metrics import average_precision, mean_iou, pixel_accuracy, roc_auc
from conceptlens.bench.report import Report
from conceptlens.maps import ConceptMaps
from conceptlens.methods import method_named
from conceptlens.session import Session, package_version


def score_scene(maps: ConceptMaps, scene: Scene) -> dict[str, float]:
    """Metrics of maps of all present concepts of a scene, at pixel resolution.

    Accuracy and mean IoU by argmax over the concepts; average precision and ROC-AUC of each concept's own map, then
    averaged over the concepts.
    """
    scores = maps.pixels().numpy()
    predicted = scores.argmax(axis=0)
    masks = [scene.mask(name) for name in scene.concepts]
    return {
        "accuracy": pixel_accuracy(predicted, scene.labels),
        "miou": mean_iou(predicted, scene.labels, len(scene.concepts)),
        "ap": float(np.mean([average_precision(s, m) for s, m in zip(scores, masks, strict=True)])),
        "auc": float(np.mean([roc_auc(s, m) for s, m in zip(scores, masks, strict=True)])),
    }


def run_scenes(
    session: Session,
    method: str,
    *,
    limit: int,
    seed: int = 0,
    split: Literal["validation", "test"] = "test",
    track: Callable[[Iterable[Scene]], Iterable[Scene]] = lambda items: items,
    command: str = "",
    **options: Any,
) -> Report:
    """Scores a method on the first `limit` scenes of a split.

    Args:
        session: the model.
        method: a name from `conceptlens.methods`.
        limit: number of scenes.
        seed: of the noise; each scene adds its own seed, so the noise differs between scenes.
        split: "test" is never used for training or tuning.
        track: wraps the scenes, for a progress bar.
        command: what to tell in the report about how to repeat it.
        **options: fields of `Recipe`.
    """
    chosen = method_named(method)
    saliency = chosen(session, **options)
    started = time.perf_counter()
    rows = []
    for scene in track(scenes(split, limit)):
        maps = saliency.explain(Image.fromarray(scene.image), scene.concepts, seed=seed + scene.seed)
        rows.append({"id": scene.seed, **score_scene(maps, scene)})
    return Report(
        method=method,
        dataset=f"scenes/{split}",
        model_id=session.model_id,
        recipe=dict(saliency.settings),
        seed=seed,
        rows=tuple(rows),
        seconds=time.perf_counter() - started,
        command=command or f"run_scenes(session, {method!r}, limit={limit}, seed={seed}, split={split!r}, **{options})",
        versions={name: package_version(name) for name in ("conceptlens", "diffusers", "torch")},
    )
