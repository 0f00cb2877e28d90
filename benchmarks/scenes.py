"""The results tables of the README and the model card: methods and ablations on held-out scenes, from stored reports.

.venv/bin/python benchmarks/scenes.py --limit 200   # runs (or goes on), stores results/, writes the tables
.venv/bin/python benchmarks/scenes.py --render      # writes the tables from the stored reports
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path

from conceptlens.bench.ablate import ablate, variants
from conceptlens.bench.figures import draw
from conceptlens.bench.report import Report, difference
from conceptlens.bench.rows import RUN
from conceptlens.bench.runs import run
from conceptlens.bench.scorer import RunSpec
from conceptlens.bench.tables import HEADINGS, Table, ablation_table, protocol_line

ROOT = Path(__file__).parents[1]
STORED, RUNS = ROOT / "results", ROOT / ".bench" / "results"
"""Reports of finished runs, one `report.json` each; and their rows while they are made."""
METHODS, ABLATIONS = Path("scenes"), Path("ablations")
TARGETS = (ROOT / "README.md", ROOT / "src/conceptlens/assets/demo/README.md")
PAGE = ROOT / "docs" / "benchmarks.md"
SWEEPS: dict[str, tuple[str, dict[str, bool]]] = {
    "space": ("space", {}),
    "attention": ("attention", {}),
    "layers": ("layers", {}),
    "all-layers": ("layers", {"single_stream": True}),
    "noise": ("noise", {}),
}
"""By name, what varies and with which settings of the method."""
STREAMS = ("concept-attention", "cross-attention", "value-similarity")
PER_IMAGE = ("mIoU per image", "ROC-AUC")
SHOWN = ("miou", "iou_image", "auc", "accuracy", "ap")


def store() -> None:
    """Reports of all runs take the place of those in `results`."""
    for part in (METHODS, ABLATIONS):
        shutil.rmtree(STORED / part, ignore_errors=True)
        for path in (RUNS / part).rglob(RUN):
            Report.load(path.parent).save(STORED / path.parent.relative_to(RUNS))


def load() -> list[Report]:
    """The stored runs, best first."""
    reports = [Report.load(folder) for folder in sorted((STORED / METHODS).iterdir()) if folder.is_dir()]
    return sorted(reports, key=lambda r: -r.metrics["miou"].value)


def render(reports: list[Report]) -> str:
    first = reports[0]
    head = ("method", *(HEADINGS[m] for m in SHOWN), "margin of the first in mIoU per image")
    body = []
    for report in reports:
        gap = "" if report is first else str(difference(first, report, "iou"))
        body.append((report.method, *(str(report.metrics[m]) for m in SHOWN), gap))
    recipe, images = first.settings["method_settings"], len(first.good)
    how = (
        f"Embedded model, {images} unseen scenes, argmax over the present concepts at pixel resolution, no prompt; "
        f"noise {recipe['noise']:g}, {recipe['samples']} draw(s), layers {', '.join(map(str, recipe['layers']))}. 95% "
        f"bootstrap intervals over images. Made by `.venv/bin/python benchmarks/scenes.py --limit {images}`."
    )
    return Table("", head, tuple(body), (how,)).markdown()


def load_ablation(stored: Path, axis: str) -> dict[str, Report]:
    """The stored reports of an ablation, in the order of its table."""
    found = {}
    for folder in stored.iterdir():
        if folder.is_dir():
            report = Report.load(folder)
            found[report.header["variant"]] = report
    order = [v.name for v in variants(axis, len(found))]
    return {variant: found[variant] for variant in order}


def render_ablation(name: str) -> str:
    axis = SWEEPS[name][0]
    return short_table(load_ablation(STORED / ABLATIONS / name, axis), axis, "Acc", "mIoU", *PER_IMAGE)


def short_table(reports: Mapping[str, Report], axis: str, *headings: str) -> str:
    """The table of an ablation, of some columns and the paper's."""
    table = ablation_table(reports, axis, next(iter(reports.values())).header["command"])
    short = {axis, *headings, "paper (ImageNet): Acc / mIoU / AP"}
    keep = [i for i, heading in enumerate(table.head) if heading in short]
    body = tuple(tuple(row[i] for i in keep) for row in table.body)
    return Table("", tuple(table.head[i] for i in keep), body, table.notes[1:]).markdown()


def protocol_of_the_table() -> str:
    return protocol_line(load()[0].protocol)


def write(path: Path, mark: str, text: str) -> None:
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    page = path.read_text()
    before, rest = page.split(begin)
    path.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--ablation-limit", type=int, default=100)
    parser.add_argument("--fresh", action="store_true", help="forget the rows so far first")
    parser.add_argument("--render", action="store_true")
    args = parser.parse_args()
    if args.fresh:
        shutil.rmtree(RUNS / METHODS, ignore_errors=True)
        shutil.rmtree(RUNS / ABLATIONS, ignore_errors=True)
    if not args.render:
        for name in STREAMS:
            command = f"conceptlens bench scenes --method {name} --limit {args.limit}"
            report = Report(*run(RunSpec("scenes", name), RUNS / METHODS / name, limit=args.limit, command=command))
            print(name, {m: str(e) for m, e in report.metrics.items()}, flush=True)
        for name, (axis, options) in SWEEPS.items():
            header = "".join(f" --set {key}={str(value).lower()}" for key, value in options.items())
            command = f"conceptlens bench ablate {axis} --limit {args.ablation_limit}{header}"
            spec = RunSpec("scenes", options=options)
            reports = ablate(spec, axis, RUNS / ABLATIONS / name, limit=args.ablation_limit, command=command)
            draw(reports, axis, [ROOT / "docs" / "images" / f"ablate-{name}.png"], command=command)
            print(name, "done", flush=True)
        store()
    for path in TARGETS:
        write(path, "scenes", render(load()))
    for name in SWEEPS:
        write(PAGE, name, render_ablation(name))
    write(PAGE, "protocol", protocol_of_the_table())


if __name__ == "__main__":
    main()
