"""Does guidance paint what the prompt says? Two-object prompts, each method against the plain pipeline.

.venv/bin/python benchmarks/guidance.py           # 200 prompts x 4 seeds; goes on where it was stopped
.venv/bin/python benchmarks/guidance.py --render  # table, picture and verdicts (`findings outcomes`) of the run
.venv/bin/python benchmarks/guidance.py --model zoo/sd2 --tune        # another painter: step sizes for all alike
.venv/bin/python benchmarks/guidance.py --model zoo/sd2 --limit 30    # with those step sizes; and with --render

Every prompt is painted by all methods in turn from the same noise, so that pictures and times compare side by side. A
detector judges the pictures (`training/judge.py train` makes it). Schedules are the papers', on 30 steps for 50. Step
sizes are theirs too, or, where `--tune` was run for a model, the best of five on prompts that are not among these.
Several processes share the work with `--part 0/2` and `--part 1/2`. Diffusion transformers are guided by T-SAM alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from conceptlens.bench.datasets.scenes import COLOURS, NOUNS
from conceptlens.bench.datasets.scenes import SIZE as SCENE
from conceptlens.bench.metrics import bootstrap_interval
from conceptlens.bench.rows import RowFile, read_rows, write_report
from conceptlens.guidance import TSAM, AttendAndExcite, Conform, Guidance, SynGen, demo_folder, guide

ROOT = Path(__file__).parents[1]
STORED, RUNS = ROOT / "results" / "guidance", ROOT / ".bench" / "guidance"
"""The report of the embedded model's run; and the rows of each model's while they are made, by part."""
SEEDS = 4
CALL = {"num_inference_steps": 30, "guidance_scale": 4.0}
PUBLISHED_STEPS = 50


def shortened(method: Guidance) -> Guidance:
    """The published schedule, which is one of 50 denoising steps, at the same shares of fewer."""
    share = CALL["num_inference_steps"] / PUBLISHED_STEPS

    def moved(by_step: Mapping[int, Any]) -> dict[int, Any]:
        return {round(step * share): value for step, value in by_step.items()}

    steps = range(round(len(tuple(method.steps)) * share))
    return replace(method, steps=steps, inner=moved(method.inner), bounds=moved(method.bounds))


LARGE, SMALL = {"attention_size": (16, 16)}, {"attention_size": (8, 8)}
PAPERS: Mapping[str, Guidance] = {
    "plain": TSAM(alpha=0),
    "tsam": TSAM.preset("paper-ae", **LARGE),
    "tsam, 8x8 maps": TSAM.preset("paper-ae", **SMALL),
    "attend-and-excite": AttendAndExcite(**LARGE),
    "conform": Conform(**LARGE),
    "syngen": SynGen(**LARGE),
}
METHODS = {name: shortened(method) for name, method in PAPERS.items()}
TRANSFORMER_METHODS: Mapping[str, Guidance] = {
    "plain": TSAM.preset("transformer", alpha=0),
    "tsam, output maps": TSAM.preset("transformer", maps="output"),
    "tsam, joint maps": TSAM.preset("transformer", maps="joint"),
}
FACTORS = (0.1, 0.3, 1, 3, 10)
"""Of a method's step size, to be tried."""
TUNING_PROMPTS = 24
Pairs = list[tuple[str, str]]


def two_objects(limit: int, draw: int) -> list[tuple[str, Pairs]]:
    """Prompts with two objects, each with a colour."""
    from judge import prompts

    return [made for made in prompts(2 * limit, draw) if len(made[1]) == 2]


def enlarged(pixels: Tensor) -> Tensor:
    """At the judge's own size."""
    return F.interpolate(pixels, size=(SCENE, SCENE), mode="bilinear")


class Painter:
    """The pipeline, and the judge of what it paints."""

    def __init__(self, model: Path) -> None:
        from judge import RUN, Judge, check

        self.judge = Judge()
        self.judge.load_state_dict(torch.load(RUN / "judge.pt"))
        self.judge.eval()
        self.pipeline = DiffusionPipeline.from_pretrained(model, dtype=torch.float32)
        self.methods, self.call, reduction = METHODS, CALL, 1
        if unet := getattr(self.pipeline, "unet", None):
            reduction = SCENE // (unet.config.sample_size * self.pipeline.vae_scale_factor)
        else:
            self.methods = TRANSFORMER_METHODS
            self.call = json.loads((model / "conceptlens.json").read_text())["generate"]
        self.trust = check(lambda pixels: self.judge(enlarged(F.avg_pool2d(pixels, reduction))))
        self.pipeline.set_progress_bar_config(disable=True)

    def paint(
        self, part: list[tuple[str, Pairs]], guidance: Guidance, seeds: list[int]
    ) -> tuple[list[dict[str, Any]], list[Image.Image]]:
        """For each picture: are both objects there, and both in their colours? And the pictures."""
        start = time.process_time()  # one thread: other work on the machine does not count
        call = {**self.call, **({"negative_prompt": [""] * len(part)} if "negative_prompt" in self.call else {})}
        made = guide(self.pipeline, [text for text, _ in part], guidance, seed=seeds, **call)
        seconds = round((time.process_time() - start) / len(part), 4)
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in made.images])).permute(0, 3, 1, 2).float()
        with torch.no_grad():
            found = self.judge(enlarged(pixels / 127.5 - 1)) > 0
        rows = []
        for seen, (_, asked) in zip(found, part, strict=True):
            right = all(bool(seen[NOUNS.index(n), list(COLOURS).index(c)]) for n, c in asked)
            there = all(bool(seen[NOUNS.index(n)].any()) for n, _ in asked)
            rows.append({"right": int(right), "objects": int(there), "seconds": seconds})
        return rows, made.images


def run(limit: int, model: Path, part: tuple[int, int]) -> None:
    painter = Painter(model)
    methods = with_tuned_steps(painter.methods, model)
    settings = {"call": painter.call, "methods": {name: method.settings() for name, method in methods.items()}}
    asked = two_objects(limit, 2024)
    with RowFile(RUNS / model.name / f"part-{part[0]}", settings, {"judge on true scenes": painter.trust}) as file:
        for number in range(part[0], limit, part[1]):
            if f"{number}-{SEEDS - 1}" in file.rows:
                continue
            seeds = [SEEDS * number + k for k in range(SEEDS)]
            made = {}
            for name in np.roll(list(methods), number):  # no method always comes first
                made[str(name)], _ = painter.paint([asked[number]] * SEEDS, methods[str(name)], seeds)
            for k, seed in enumerate(seeds):
                row = {name: made[name][k] for name in methods}
                file.append({"id": f"{number}-{k}", "prompt": asked[number][0], "seed": seed, **row})
            rights = {n: sum(r[n]["right"] for r in file.rows.values()) for n in methods}
            print(f"{len(file.rows)} pictures, right: {rights}", flush=True)


def tune(model: Path) -> None:
    """The share of right pictures with several step sizes, on prompts of another draw, is stored beside the report."""
    painter, asked = Painter(model), two_objects(TUNING_PROMPTS, 7)
    found: dict[str, dict[str, float]] = {}
    for name, method in painter.methods.items():
        for factor in FACTORS if method.alpha else ():
            rows, _ = painter.paint(asked, replace(method, alpha=method.alpha * factor), list(range(TUNING_PROMPTS)))
            found.setdefault(name, {})[f"{factor:g}"] = round(float(np.mean([row["right"] for row in rows])), 4)
            print(f"{name} alpha {method.alpha * factor:g}: {found[name][f'{factor:g}']}", flush=True)
    rows, _ = painter.paint(asked, painter.methods["plain"], list(range(TUNING_PROMPTS)))
    plain = round(float(np.mean([row["right"] for row in rows])), 4)
    stored(model).mkdir(parents=True, exist_ok=True)
    told = {"prompts": TUNING_PROMPTS, "plain": plain, "right by factor of the step size": found}
    (stored(model) / "tuning.json").write_text(json.dumps(told, indent=1) + "\n")


def with_tuned_steps(methods: Mapping[str, Guidance], model: Path) -> Mapping[str, Guidance]:
    """Each with the step size that was right most often, the published one or the smaller of equals."""
    file = stored(model) / "tuning.json"
    if not file.exists():
        return methods
    found = json.loads(file.read_text())["right by factor of the step size"]
    return {
        name: replace(method, alpha=method.alpha * best_factor(found.get(name, {"1": 0.0})))
        for name, method in methods.items()
    }


def best_factor(shares: Mapping[str, float]) -> float:
    """The factor with the highest share; of equals 1, else the smallest.

    >>> best_factor({"0.1": 0.5, "0.3": 0.75, "1": 0.75, "3": 0.25})
    1.0
    """
    return max(map(float, shares), key=lambda factor: (shares[f"{factor:g}"], factor == 1, -factor))


def stored(model: Path) -> Path:
    """The folder of a model's report."""
    return STORED if model == demo_folder() else STORED / model.name


def store(model: Path) -> None:
    """The parts of a run become one report."""
    parts = [read_rows(folder) for folder in sorted((RUNS / model.name).glob("part-*"))]
    rows = [row for _, part in parts for row in part]
    if parts:
        named = "" if model == demo_folder() else f" --model zoo/{model.name}"
        command = f".venv/bin/python benchmarks/guidance.py{named} --limit {len(rows) // SEEDS}"
        write_report(stored(model), {**parts[0][0], "command": command}, rows)


def load(model: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return read_rows(stored(model))


def by_prompt(rows: list[dict[str, Any]], name: str, metric: str) -> np.ndarray:
    """Each prompt's mean over its seeds: pictures of one prompt are no independent trials."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["id"].split("-")[0], []).append(row[name][metric])
    return np.array([np.mean(found[number]) for number in sorted(found, key=int)])


def between(values: np.ndarray) -> str:
    low, high = bootstrap_interval(values)
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


def render(told: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    heads = ("method", "both objects in their colours", "against plain", "both objects there", "against plain", "time")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in told["settings"]["methods"]:
        cells = []
        for metric in ("right", "objects"):
            own, plain = by_prompt(rows, name, metric), by_prompt(rows, "plain", metric)
            cells += [between(own), "" if name == "plain" else between(own - plain)]
        ratio = by_prompt(rows, name, "seconds").sum() / by_prompt(rows, "plain", "seconds").sum()
        lines.append(f"| {name} | {' | '.join(cells)} | {ratio:.2f}x |")
    trust, call = told["judge on true scenes"], told["settings"]["call"]
    scale = call.get("true_cfg_scale", call.get("guidance_scale"))
    how = (
        f"{len(by_prompt(rows, 'plain', 'right'))} two-object prompts, {SEEDS} seeds each, the same noise for all "
        f"methods, {call['num_inference_steps']} steps (the published schedules, shortened from {PUBLISHED_STEPS}), "
        f"guidance scale {scale:g}; 95% bootstrap intervals over prompts (of the difference, paired). "
        f"The judge finds {trust['pairs found (recall)']:.1%} of the coloured objects of true scenes of that size, and "
        f"{trust['pairs right (precision)']:.1%} of those it finds are there."
    )
    return "\n".join([*lines, "", how])


def store_verdicts(file: Path, told: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """The judge's word on the plain pictures, for `conceptlens findings outcomes --verdicts`."""
    kept = [
        {
            "prompt": row["prompt"],
            "seed": row["seed"],
            **{name: bool(row["plain"][name]) for name in ("objects", "right")},
        }
        for row in rows
    ]
    file.write_text(json.dumps({"call": told["settings"]["call"], "rows": kept}, indent=1) + "\n")


def framed(image: Image.Image, right: bool) -> Image.Image:
    """Enlarged, in a green frame where the judge called it right."""
    tile = image.resize((88, 88), Image.Resampling.NEAREST)
    return ImageOps.expand(ImageOps.expand(tile, 3, "green" if right else "white"), 1, "white")


def sheet(model: Path, file: Path, columns: int = 8) -> None:
    """The first pictures whose verdict is not the same for all methods: a row for each method."""
    told, rows = load(model)
    asked = two_objects(1 + max(int(row["id"].split("-")[0]) for row in rows), 2024)
    picked = [row for row in rows if len({row[name]["right"] for name in told["settings"]["methods"]}) > 1][:columns]
    painter, lines = Painter(model), []
    part = [asked[int(row["id"].split("-")[0])] for row in picked]
    for name, guidance in with_tuned_steps(painter.methods, model).items():
        _, images = painter.paint(part, guidance, [row["seed"] for row in picked])
        label = Image.new("RGB", (140, 96), "white")
        ImageDraw.Draw(label).text((6, 40), name, fill="black", font=ImageFont.load_default(15))
        tiles = [label, *(framed(i, bool(row[name]["right"])) for i, row in zip(images, picked, strict=True))]
        lines.append(np.concatenate([np.asarray(tile) for tile in tiles], axis=1))
    Image.fromarray(np.concatenate(lines)).save(file)
    print(json.dumps([row["prompt"] for row in picked], indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=200, help="prompts")
    parser.add_argument("--part", default="0/1", help="K/N: prompts K, K + N, ... in this process")
    parser.add_argument("--model", type=Path, default=demo_folder())
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--render", action="store_true")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT / "training"))
    torch.set_num_threads(1)
    if args.render:
        store(args.model)
        told, rows = load(args.model)
        print(render(told, rows))
        store_verdicts(stored(args.model) / "plain.json", told, rows)
        name = "guidance" if args.model == demo_folder() else f"guidance-{args.model.name}"
        sheet(args.model, ROOT / "docs" / f"{name}.png")
    elif args.tune:
        tune(args.model)
    else:
        number, count = map(int, args.part.split("/"))
        run(args.limit, args.model, (number, count))


if __name__ == "__main__":
    main()
