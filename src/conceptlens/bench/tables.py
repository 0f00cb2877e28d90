"""Tables for people and for papers: Markdown, LaTeX, CSV. One table per dataset and protocol, never two in one."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conceptlens.bench.paper import TABLE_3, TABLE_4
from conceptlens.bench.report import Report, difference

HEADINGS = {
    "accuracy": "Acc",
    "miou": "mIoU",
    "ap": "AP",
    "accuracy_standard": "Acc (void ignored)",
    "miou_standard": "mIoU (standard)",
    "ap_minmax": "AP (min-max)",
    "iou_image": "mIoU per image",
    "auc": "ROC-AUC",
}


@dataclass(frozen=True)
class Table:
    """Cells as text, with what must be known to read them."""

    title: str
    head: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """A GitHub table."""
        lines = [f"**{self.title}**", ""] if self.title else []
        lines += ["| " + " | ".join(self.head) + " |", "|" + "---|" * len(self.head)]
        lines += ["| " + " | ".join(row) + " |" for row in self.body]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)])

    def latex(self) -> str:
        """A booktabs table."""
        rows = [" & ".join(map(_tex, row)) + r" \\" for row in self.body]
        return "\n".join(
            [
                *(f"% {note}" for note in self.notes),
                r"\begin{tabular}{l" + "r" * (len(self.head) - 1) + "}",
                r"\toprule",
                " & ".join(map(_tex, self.head)) + r" \\",
                r"\midrule",
                *rows,
                r"\bottomrule",
                r"\end{tabular}",
            ]
        )

    def csv(self) -> str:
        """Comma-separated, notes as comments."""
        text = io.StringIO()
        for note in (self.title, *self.notes):
            if note:
                text.write(f"# {note}\n")
        csv.writer(text, lineterminator="\n").writerows([self.head, *self.body])
        return text.getvalue().rstrip("\n")

    def render(self, form: str) -> str:
        """The table as "markdown", "latex" or "csv"."""
        return {"markdown": self.markdown, "latex": self.latex, "csv": self.csv}[form]()

    def save(self, folder: Path, name: str) -> None:
        """Writes the table in each form: `name.md`, `.tex` and `.csv`."""
        for ending, form in (("md", "markdown"), ("tex", "latex"), ("csv", "csv")):
            aside = folder / f".{name}.{ending}"
            aside.write_text(self.render(form) + "\n")
            aside.replace(folder / f"{name}.{ending}")


def leaderboard(reports: Sequence[Report]) -> list[Table]:
    """One table for each dataset and protocol, best mIoU first, the paper's figures beside ours."""
    groups: dict[tuple[str, str], list[Report]] = {}
    for report in reports:
        groups.setdefault((report.settings["dataset"], report.protocol["name"]), []).append(report)
    return [_board(*key, members) for key, members in sorted(groups.items())]


def _board(dataset: str, protocol: str, reports: list[Report]) -> Table:
    reports = sorted(reports, key=lambda r: -(r.metrics["miou"].value if r.metrics else -1))
    names = [name for name in HEADINGS if any(name in r.metrics for r in reports)]
    papers = [r.paper for r in reports]
    theirs = ["paper: Acc / mIoU / AP"] if any(papers) else []
    head = ("method", "model", *(HEADINGS[n] for n in names), *theirs, "images", "s/image", "peak MB")
    body = []
    for report, paper in zip(reports, papers, strict=True):
        figures = [str(report.metrics[n]) if n in report.metrics else "" for n in names]
        beside = [" / ".join(f"{v:.2f}" for v in paper) if paper else ""] if theirs else []
        images = str(len(report.good)) + (f" ({len(report.bad)} bad)" if report.bad else "")
        peak = str(report.header.get("peak_memory_mb", ""))
        body.append((report.method, report.settings["model"], *figures, *beside, images, f"{report.seconds}", peak))
    notes = [f"{protocol_line(report.protocol)} 95% bootstrap intervals over images." for report in reports[:1]]
    different = {protocol_line(r.protocol) for r in reports}
    if len(different) > 1:
        notes = [f"{r.method}: {protocol_line(r.protocol)}" for r in reports] + ["95% bootstrap intervals over images."]
    commands = [r.header["command"] for r in reports if r.header.get("command")]
    return Table(f"{dataset}, protocol {protocol}", head, tuple(body), (*notes, *(f"`{c}`" for c in commands)))


def ablation_table(reports: Mapping[str, Report], axis: str, command: str) -> Table:
    """One row per variant, the paper's figures beside where it has the same table."""
    theirs = {"space": TABLE_3, "attention": TABLE_4}.get(axis, {})
    one = next(iter(reports.values()))
    names = [n for n in HEADINGS if n in one.metrics]
    paper = ("paper (ImageNet): Acc / mIoU / AP",) if theirs else ()
    if axis == "refine":
        paper = ("mIoU per image, less the first row's",)
    body = []
    for variant, report in reports.items():
        beside = [" / ".join(f"{v:.2f}" for v in theirs[variant])] if theirs else []
        if axis == "refine":
            beside = [str(difference(report, one, "iou"))]
        body.append((variant, *(str(report.metrics[n]) for n in names), *beside))
    settings = one.settings
    notes = (
        f"{settings['dataset']}, {len(one.good)} images, model {settings['model']}, seed {settings['seed']}. "
        f"{protocol_line(one.protocol)} 95% bootstrap intervals over images.",
        f"`{command}`",
    )
    return Table(f"Ablation: {axis}", (axis, *(HEADINGS[n] for n in names), *paper), tuple(body), notes)


def protocol_line(protocol: dict) -> str:
    """Every field of a protocol, in one line."""
    fields = ", ".join(f"{k}={_plain(v)}" for k, v in protocol.items() if k != "name")
    return f"Protocol {protocol['name']}: {fields}."


def _plain(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return "(" + " ".join(map(str, value)) + ")"
    if isinstance(value, dict):
        return "{" + " ".join(f"{k}:{_plain(v)}" for k, v in value.items()) + "}"
    return str(value)


def _tex(text: str) -> str:
    for char in "&%_#":
        text = text.replace(char, "\\" + char)
    return text
