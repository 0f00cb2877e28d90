"""The page of Table 1 in miniature: every method on the small models of zoo/, from stored reports.

.venv/bin/python benchmarks/table.py --limit 200   # runs (or goes on), stores results/table, writes the page
.venv/bin/python benchmarks/table.py --render      # writes the page from the stored reports
"""

from __future__ import annotations

import argparse
import shutil
from itertools import product

from scenes import PER_IMAGE, ROOT, load_ablation, short_table, write

from conceptlens.bench.ablate import ablate
from conceptlens.bench.report import Report
from conceptlens.bench.scorer import RunSpec, Scorer
from conceptlens.bench.side_by_side import draw_methods
from conceptlens.bench.table_one import (
    ROWS,
    SEVERAL,
    SINGLE,
    TableReport,
    TableRow,
    score_table,
    spec_of,
    table_one,
    table_two,
)

STORED, RUNS = ROOT / "results" / "table", ROOT / ".bench" / "table"
PAGE, PICTURE = ROOT / "docs" / "table-one.md", ROOT / "docs" / "images" / "table-methods.png"
AXES = ("space", "attention", "layers", "noise")
MODELS = ("neutral", "sd3")
"""The models of the zoo whose settings are varied."""


def load() -> TableReport:
    """The stored reports."""

    def found(dataset: str) -> dict[TableRow, Report]:
        return {row: Report.load(STORED / dataset / row.name) for row in ROWS if (STORED / dataset / row.name).is_dir()}

    single = found(SINGLE)
    command = next(iter(single.values())).header["command"]
    return TableReport(single, found(SEVERAL), command)


def render_ablation(model: str, axis: str) -> str:
    """The table of one ablation, of the columns that say most."""
    return short_table(load_ablation(STORED / model / axis, axis), axis, *PER_IMAGE)


def run(limit: int, ablation_limit: int) -> None:
    """Runs what has no rows yet, and stores the reports and the picture."""
    command = f"conceptlens bench table --limit {limit}"
    report = score_table(RUNS, limit=limit, command=command)
    shutil.rmtree(STORED, ignore_errors=True)
    for dataset, rows in ((SINGLE, report.single), (SEVERAL, report.several)):
        for row, found in rows.items():
            found.save(STORED / dataset / row.name)
    for model, axis in product(MODELS, AXES):
        spec = RunSpec("scenes", model=f"zoo:{model}")
        told = f"conceptlens bench ablate {axis} --model zoo:{model} --limit {ablation_limit}"
        for name, found in ablate(spec, axis, RUNS / model / axis, limit=ablation_limit, command=told).items():
            found.save(STORED / model / axis / name.replace(", ", "-").replace(" ", "-"))
    scorers = {row.name: Scorer(spec_of(row, SINGLE)) for row in report.single}
    draw_methods(scorers, next(iter(scorers.values())).data.ids()[1], PICTURE, command=command)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--ablation-limit", type=int, default=100)
    parser.add_argument("--render", action="store_true")
    args = parser.parse_args()
    if not args.render:
        run(args.limit, args.ablation_limit)
    report = load()
    write(PAGE, "single", table_one(report).markdown())
    write(PAGE, "several", table_two(report).markdown())
    for model, axis in product(MODELS, AXES):
        write(PAGE, f"{axis} {model}", render_ablation(model, axis))


if __name__ == "__main__":
    main()
