"""Does guidance paint what the prompt says? Two-object prompts, each method against the plain pipeline.

.venv/bin/python benchmarks/guidance.py --limit 100   # runs, stores results/guidance/*.json, prints the table
.venv/bin/python benchmarks/guidance.py --render      # prints the table of the stored results

Every prompt is painted by all methods in turn from the same noise, so that pictures and times compare side by side. A
detector judges the pictures (`training/judge.py`). No setting was chosen by looking at these prompts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from sklearn.metrics import roc_auc_score
from torch import Tensor

from conceptlens.bench.datasets.scenes import COLOURS, NOUNS
from conceptlens.bench.datasets.scenes import SIZE as SCENE
from conceptlens.bench.metrics import bootstrap_interval
from conceptlens.guidance import TSAM, AttendAndExcite, Conform, Guidance, PromptText, SynGen, demo_folder, guide

ROOT = Path(__file__).parents[1]
STORED = ROOT / "results" / "guidance"
CALL = {"num_inference_steps": 50, "guidance_scale": 4.0}
SIZE = {"attention_size": (16, 16)}
METHODS: Mapping[str, Guidance] = {
    "plain": TSAM(alpha=0),
    "tsam": TSAM.preset("paper-ae", **SIZE),
    "attend-and-excite": AttendAndExcite(**SIZE),
    "conform": Conform(**SIZE),
    "syngen": SynGen(**SIZE),
}


def enlarged(pixels: Tensor) -> Tensor:
    """At the judge's own size."""
    return F.interpolate(pixels, size=(SCENE, SCENE), mode="bilinear")


def judged(judge: Any, images: list, pairs: list[list[tuple[str, str]]]) -> list[dict[str, bool]]:
    """For each picture: are both objects there, and both in their colours?"""
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        found = judge(enlarged(pixels / 127.5 - 1)) > 0
    rows = []
    for seen, asked in zip(found, pairs, strict=True):
        right = all(bool(seen[NOUNS.index(n), list(COLOURS).index(c)]) for n, c in asked)
        rows.append({"right": right, "objects": all(bool(seen[NOUNS.index(n)].any()) for n, _ in asked)})
    return rows


def binding_auc(texts: list[PromptText]) -> float:
    """Does the text encoder's self-attention tell a noun's own colour from the other noun's? 0.5: no; 1: always.

    T-SAM's target at power 1: what the second noun gives to its own colour, against what it gives to the first's.
    """
    scores, truth = [], []
    for text in texts:
        (colour, _), (own_colour, noun) = text.groups(None)
        target = TSAM(gamma=1.0).target(text)
        first = text.positions[0]
        for place, bound in ((own_colour, 1), (colour, 0)):
            scores.append(target[noun[0] - first, place[0] - first].item())
            truth.append(bound)
    return float(roc_auc_score(truth, scores))


def run(limit: int, batch: int, seconds: float, model: Path) -> None:
    sys.path.insert(0, str(ROOT / "training"))
    from judge import RUN, Judge, check, prompts

    judge = Judge()
    judge.load_state_dict(torch.load(RUN / "judge.pt"))
    judge.eval()
    pipeline = StableDiffusionPipeline.from_pretrained(model, dtype=torch.float32, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    asked = [made for made in prompts(2 * limit) if len(made[1]) == 2]
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in METHODS}
    texts: list[PromptText] = []
    began = time.perf_counter()
    for first in range(0, limit, batch):
        part = asked[first : first + batch]
        for name, guidance in METHODS.items():
            start = time.perf_counter()
            result = guide(pipeline, [text for text, _ in part], guidance, seed=first, **CALL)
            spent = (time.perf_counter() - start) / len(part)
            texts += result.texts if name == "tsam" else ()
            verdicts = judged(judge, result.images, [pairs for _, pairs in part])
            for made, verdict, seed in zip(part, verdicts, result.seeds, strict=True):
                rows[name].append({"prompt": made[0], "seed": seed, **verdict, "seconds": round(spent, 3)})
        print({n: (len(r), round(np.mean([x["right"] for x in r]), 3)) for n, r in rows.items()}, flush=True)
        if time.perf_counter() - began > seconds:
            break
    STORED.mkdir(parents=True, exist_ok=True)
    trust = check(lambda pixels: judge(enlarged(F.avg_pool2d(pixels, 2))))
    for name, made in rows.items():
        report = {"call": CALL, "settings": METHODS[name].settings(), "judge on true scenes": trust}
        report |= {"binding AUC of the text encoder": round(binding_auc(texts), 4), "rows": made}
        (STORED / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")


def load() -> dict[str, dict[str, Any]]:
    return {name: json.loads((STORED / f"{name}.json").read_text()) for name in METHODS}


def column(report: dict[str, Any], name: str) -> np.ndarray:
    return np.array([row[name] for row in report["rows"]], float)


def between(values: np.ndarray) -> str:
    low, high = bootstrap_interval(values)
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


def render(reports: dict[str, dict[str, Any]]) -> str:
    heads = ("method", "both objects in their colours", "against plain", "both objects there", "against plain", "time")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    plain = reports["plain"]
    for name, report in reports.items():
        cells = []
        for metric in ("right", "objects"):
            own = column(report, metric)
            cells += [between(own), "" if name == "plain" else between(own - column(plain, metric))]
        ratio = column(report, "seconds").sum() / column(plain, "seconds").sum()
        lines.append(f"| {name} | {' | '.join(cells)} | {ratio:.2f}x |")
    count, trust, call = len(plain["rows"]), plain["judge on true scenes"], plain["call"]
    how = (
        f"{count} two-object prompts, one picture each, the same noise for all methods, {call['num_inference_steps']} "
        f"steps, guidance scale {call['guidance_scale']:g}, 95% bootstrap intervals over prompts (of the difference, "
        f"paired). The judge finds {trust['pairs found (recall)']:.1%} of the coloured objects of true scenes as "
        f"small, and {trust['pairs right (precision)']:.1%} of those it finds are there. The encoder's self-attention "
        f"tells a noun's colour from the other noun's with an AUC of {plain['binding AUC of the text encoder']:.2f}. "
        f"Made by `.venv/bin/python benchmarks/guidance.py --limit {count}`."
    )
    return "\n".join([*lines, "", how])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--model", type=Path, default=demo_folder())
    parser.add_argument("--render", action="store_true")
    args = parser.parse_args()
    if not args.render:
        run(args.limit, args.batch, args.seconds, args.model)
    table = render(load())
    print(table)


if __name__ == "__main__":
    main()
