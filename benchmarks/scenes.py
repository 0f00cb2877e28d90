"""The README's table: every method on held-out scenes, from stored reports.

.venv/bin/python benchmarks/scenes.py --limit 200   # runs, stores results/scenes/*.json, writes the tables
.venv/bin/python benchmarks/scenes.py --render      # writes the tables from the stored reports
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import conceptlens as cl
from conceptlens.bench.metrics import bootstrap_interval
from conceptlens.bench.protocol import run_scenes
from conceptlens.methods import registered

ROOT = Path(__file__).parents[1]
STORED = ROOT / "results" / "scenes"
TARGETS = (ROOT / "README.md", ROOT / "src/conceptlens/assets/demo/README.md")
BEGIN, END = "<!-- scenes: begin -->", "<!-- scenes: end -->"


def load() -> dict[str, dict[str, Any]]:
    reports = {path.stem: json.loads(path.read_text()) for path in sorted(STORED.glob("*.json"))}
    return dict(sorted(reports.items(), key=lambda item: -item[1]["miou"]))


def interval(report: dict[str, Any], metric: str) -> str:
    low, high = report["interval95"][metric]
    return f"{report[metric]:.3f} [{low:.3f}, {high:.3f}]"


def render(reports: dict[str, dict[str, Any]]) -> str:
    best, first = next(iter(reports.items()))
    heads = ("method", "mean IoU", "ROC-AUC", "accuracy", "AP", "margin of the first in mean IoU")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, report in reports.items():
        cells = [interval(report, metric) for metric in ("miou", "auc", "accuracy", "ap")]
        gaps = np.array([a["miou"] - b["miou"] for a, b in zip(first["rows"], report["rows"], strict=True)])
        low, high = bootstrap_interval(gaps)
        cells.append("" if name == best else f"{gaps.mean():.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    recipe, images = first["recipe"], first["images"]
    layers = ", ".join(map(str, recipe["layers"]))
    how = (
        f"Embedded model, {images} unseen scenes ({first['dataset']}), argmax over the present concepts at pixel "
        f"resolution; noise {recipe['noise']:g}, {recipe['samples']} draw(s), layers {layers}, no prompt; 95% "
        f"bootstrap intervals over images. Made by `.venv/bin/python benchmarks/scenes.py --limit {images}`."
    )
    return "\n".join([*lines, "", how])


def write(path: Path, table: str) -> None:
    text = path.read_text()
    before, rest = text.split(BEGIN)
    path.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--render", action="store_true")
    args = parser.parse_args()
    if not args.render:
        session = cl.load(device="cpu")
        for name in (name for name, method in registered().items() if method.info.backbone is None):
            report = run_scenes(session, name, limit=args.limit)
            report.save(STORED)
            print(name, {k: report.summary()[k] for k in ("miou", "auc", "accuracy", "ap")}, flush=True)
    table = render(load())
    for path in TARGETS:
        write(path, table)
    print(table)


if __name__ == "__main__":
    main()
