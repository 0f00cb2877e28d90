"""Does a checkup, which has no data, say what true scenes say? Orders, proposed recipe and presence, on both.

.venv/bin/python benchmarks/checkup.py --models demo zoo:neutral --limit 60 --scenes 40   # runs, or goes on; stores
.venv/bin/python benchmarks/checkup.py --render                                            # writes the table

A checkup paints and reads in `.bench/checkup`. The scenes are the first of the validation split, with exact masks.
Every setting that the checkup scored is scored on them too, by mean IoU per image, on two questions. The same
question as in collages: objects that are there and one that is not, against any word of a ground or a sky as the
background. And that of `conceptlens bench scenes`: the words of all that is there, the right
ground among them, and no others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scenes import ROOT, write
from scipy.stats import spearmanr

import conceptlens as cl
from conceptlens.bench.checkup.looking import Looker
from conceptlens.bench.checkup.plan import Plan
from conceptlens.bench.checkup.run import Checkup
from conceptlens.bench.checkup.verdict import Findings, Setting
from conceptlens.bench.counts import ClassCounts
from conceptlens.bench.datasets.scenes import NOUNS, Scene, scenes
from conceptlens.bench.rows import RowFile
from conceptlens.bench.tables import Table
from conceptlens.ops.grids import resize
from conceptlens.presence import Calibration, ModelCalibration
from conceptlens.session import Session

STORED, RUNS = ROOT / "results" / "checkup", ROOT / ".bench" / "checkup"
PAGE, PICTURE = ROOT / "docs" / "checkup.md", ROOT / "docs" / "images" / "checkup.png"
QUESTIONS = {"same question": "same", "benchmark's": "benchmark"}


def scene_row(session: Session, looker: Looker, scene: Scene, noise: float) -> dict[str, Any]:
    """Mean IoU of one scene in every setting of a noise level, and the presence scores of all nouns."""
    record = looker.read(Image.fromarray(scene.image), noise, scene.seed)
    nouns = tuple(name for name in scene.concepts if name in NOUNS)
    absent = [name for name in NOUNS if name not in nouns][scene.seed % (len(NOUNS) - len(nouns))]
    grounds = tuple(word for word in session.reader.defaults.background if word not in nouns)
    asked = {"same": (*nouns, absent, *grounds), "benchmark": scene.concepts}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for question, words in asked.items():
        labels = (
            scene.labels.astype(int) if question == "benchmark" else np.minimum(scene.labels, len(nouns)).astype(int)
        )
        found[question] = {}
        for space in looker.spaces:
            maps = looker.maps(record, words, space=space)
            won = {
                name: resize(maps[list(layers)].mean(dim=0), *labels.shape).argmax(dim=0).numpy()
                for name, layers in looker.spans.items()
            }
            if question == "same":  # the absent one is no class, the grounds are one: the number after the nouns
                won = {name: _as_background(winner, len(nouns)) for name, winner in won.items()}
            classes = len(words)
            scores = {name: ClassCounts.of(winner, labels, classes).iou() for name, winner in won.items()}
            found[question][space] = {name: round(score, 5) for name, score in scores.items()}
    row = {"id": f"{scene.seed}@{noise:g}", "seed": scene.seed, "noise": noise, "iou": found}
    return {**row, "there": list(scene.concepts), "standings": looker.standings(record)}


def _as_background(won: np.ndarray, nouns: int) -> np.ndarray:
    return np.where(won < nouns, won, np.where(won == nouns, -1, nouns))


def look(session: Session, plan: Plan, limit: int, out: Path) -> list[dict[str, Any]]:
    """Rows of the first validation scenes, at the noise levels of a checkup."""
    looker = Looker(session, plan.nouns, 64)
    wanted = [(scene, noise) for scene in scenes("validation", limit) for noise in plan.noises]
    with RowFile(out, {"model": session.model_id, "noises": plan.noises, "nouns": plan.nouns}, {}) as file:
        for scene, noise in wanted:
            if f"{scene.seed}@{noise:g}" not in file.rows:
                file.append(scene_row(session, looker, scene, noise))
        return [file.rows[f"{scene.seed}@{noise:g}"] for scene, noise in wanted]


def true_score(rows: Sequence[dict[str, Any]], setting: Setting, question: str) -> float:
    values = [row["iou"][question][setting.space][setting.span] for row in rows if row["noise"] == setting.noise]
    return float(np.mean(values))


def order(
    found: Findings, rows: Sequence[dict[str, Any]], settings: Sequence[Setting], question: str
) -> dict[str, Any]:
    """What collages and scenes say of some settings, and how well the two orders agree."""
    ours = [found.estimate(setting).value for setting in settings]
    theirs = [true_score(rows, setting, question) for setting in settings]
    rho = float(np.asarray(spearmanr(ours, theirs))[0])
    named = {str(s): [round(a, 4), round(b, 4)] for s, a, b in zip(settings, ours, theirs, strict=True)}
    return {"spearman": round(rho, 4), "collages and scenes": named}


def brier(rows: Sequence[dict[str, Any]], plan: Plan, curves: dict[str, Calibration], span: str, noise: float) -> float:
    """Brier score on scenes of the nouns of a checkup that have a curve."""
    errors = []
    for row in rows:
        if row["noise"] == noise:
            for column, noun in enumerate(plan.nouns):
                if noun in curves:
                    chance = curves[noun].chance(row["standings"][span][column])
                    errors.append((chance - (noun in row["there"])) ** 2)
    return round(float(np.mean(errors)), 4)


def presence(found: Findings, session: Session, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Brier scores on scenes: of the checkup's chances, of today's, of guessing."""
    fit, plan = found.presence, found.plan
    share = np.mean([noun in row["there"] for row in rows for noun in plan.nouns])
    told: dict[str, Any] = {"guessing": round(float(share * (1 - share)), 4)}
    if fit is not None:
        curves = {noun: fit.curves.get(noun, fit.every) for noun in plan.nouns}
        told["checkup"] = brier(rows, plan, {n: c for n, c in curves.items() if c is not None}, fit.span, fit.noise)
    today = ModelCalibration.of(session)
    if today is not None:
        span = ",".join(map(str, today.layers))
        told["today"] = brier(rows, plan, dict(today.curves), span, today.noise)
    return told


def judge(model: str, limit: int, count: int) -> dict[str, Any]:
    session = cl.load(None if model == "demo" else model, device="cpu")
    plan = Plan.of(session, limit=limit)
    name = model.replace(":", "-")
    with Checkup(session, plan, RUNS / name) as run:
        run.paint()
        run.read()
        found = run.findings()
        run.write(found)
        if model == "demo":
            run.examples(found)[0][1].save(PICTURE)
    told = {"model": model, "limit": limit, "scenes": count, **found.summary()}
    rows = look(session, plan, count, RUNS / f"{name}-scenes")
    if not found.settings:
        return told
    layers = [span for span, numbers in found.spans.items() if len(numbers) == 1]
    for question in ("same", "benchmark"):
        best = max(found.settings, key=lambda setting: true_score(rows, setting, question))
        chosen = found.best
        told[question] = {
            "proposed": [str(chosen), round(true_score(rows, chosen, question), 4)],
            "best": [str(best), round(true_score(rows, best, question), 4)],
            "usual": [str(found.usual), round(true_score(rows, found.usual, question), 4)],
            "layers": order(found, rows, [Setting(chosen.noise, chosen.space, span) for span in layers], question),
            "noise": order(found, rows, [Setting(n, chosen.space, chosen.span) for n in plan.noises], question),
            "all": {"spearman": order(found, rows, found.settings, question)["spearman"]},
        }
    told["presence on scenes"] = presence(found, session, rows)
    return told


def _figures(question: str) -> list[tuple[str, Callable[[dict[str, Any]], str]]]:
    """Lines of the table for one question."""
    return [
        ("Spearman of layers", lambda d: f"{d[question]['layers']['spearman']:.2f}"),
        ("Spearman of noise levels", lambda d: f"{d[question]['noise']['spearman']:.2f}"),
        ("Spearman of all settings", lambda d: f"{d[question]['all']['spearman']:.2f}"),
        ("mIoU of the proposed recipe", lambda d: f"{d[question]['proposed'][1]:.3f}"),
        ("mIoU of the best of all", lambda d: f"{d[question]['best'][1]:.3f} ({d[question]['best'][0]})"),
        ("mIoU of the usual recipe", lambda d: f"{d[question]['usual'][1]:.3f}"),
    ]


def render(judged: Sequence[dict[str, Any]]) -> str:
    head = ("", *(each["model"] for each in judged))
    lines = {
        "collages / scenes": lambda d: f"{d['collages']} / {d['scenes']}",
        "margin over the wrong noun": lambda d: "{:.3f} [{:.3f}, {:.3f}]".format(*d["margin"]),
        "proposed recipe": lambda d: d["same"]["proposed"][0],
        **{f"{name}, {title}": line for title, question in QUESTIONS.items() for name, line in _figures(question)},
        "presence, Brier score on scenes: checkup": lambda d: f"{d['presence on scenes']['checkup']:.3f}",
        "... curves fitted on scenes": lambda d: f"{d['presence on scenes']['today']:.3f}",
        "... guessing": lambda d: f"{d['presence on scenes']['guessing']:.3f}",
    }

    def cell(line: str, entry: dict[str, Any]) -> str:
        try:
            return lines[line](entry)
        except KeyError:
            return "-"

    body = tuple((line, *(cell(line, each) for each in judged)) for line in lines)
    models = " ".join(each["model"] for each in judged)
    command = f"`.venv/bin/python benchmarks/checkup.py --models {models} --limit {judged[0]['limit']}`"
    return Table("", head, body, (command,)).markdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["demo", "zoo:neutral"])
    parser.add_argument("--limit", type=int, default=60, help="collages")
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--render", action="store_true", help="write the table from the stored results")
    args = parser.parse_args()
    for model in [] if args.render else args.models:
        STORED.mkdir(parents=True, exist_ok=True)
        told = json.dumps(judge(model, args.limit, args.scenes), indent=1)
        (STORED / f"{model.replace(':', '-')}.json").write_text(told + "\n")
    judged = [json.loads(path.read_text()) for path in sorted(STORED.glob("*.json"))]
    write(PAGE, "proof", render(judged))


if __name__ == "__main__":
    main()
