"""`conceptlens bench table`: every row of the paper's Table 1 on the models of a zoo."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conceptlens.cli.checks import check_request
from conceptlens.cli.options import Device, Seed, say
from conceptlens.cli.progress import Engine, Form, RowBar, Workers, check_engine, check_form, resumable, this_command
from conceptlens.values.zoo import VARIABLE

if TYPE_CHECKING:
    from conceptlens.bench.rows import Track
    from conceptlens.bench.table_one import TableReport, TableRow


def table_(
    zoo: Annotated[Path | None, typer.Option(help="Folder with a folder for each model; zoo.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Scenes of each dataset.")] = 200,
    seed: Seed = 0,
    picture: Annotated[int, typer.Option(min=0, max=9_999_999, help="The scene of the figure, counted from 0.")] = 0,
    engine: Engine = "local",
    workers: Workers = 1,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for rows, tables and figure.")] = Path("out/table"),
    form: Form = "markdown",
    device: Device = None,
) -> None:
    """Every row of the paper's Table 1 on small models of its kind: figures with intervals, resumable."""
    check_form(form)
    check_request({}, seed=seed, out=out)
    check_engine(engine)
    if zoo is not None:
        os.environ[VARIABLE] = str(zoo)  # worker processes look there as well
    from conceptlens.bench.table_one import SEVERAL, SINGLE, score_table, table_one, table_two

    def track(row: "TableRow") -> "Track":
        return RowBar(row.name, quiet=False).track

    how = {"engine": engine, "workers": workers, "device": device, "seed": seed}
    with resumable():
        report = score_table(out, limit=limit, track=track, command=this_command(), **how)
        _draw(report, out, seed, picture, device)
    made = {SINGLE: table_one(report)} | ({SEVERAL: table_two(report)} if report.several else {})
    for name, one in made.items():
        one.save(out, name)
    say("\n\n".join(one.render(form) for one in made.values()))
    say(f"{out}/methods.png, and each table as .md, .tex and .csv")


def _draw(report: "TableReport", out: Path, seed: int, picture: int, device: str | None) -> None:
    """One scene, all methods of the table."""
    from conceptlens.bench.scorer import Scorer
    from conceptlens.bench.side_by_side import draw_methods
    from conceptlens.bench.table_one import SINGLE, spec_of

    scorers = {row.name: Scorer(spec_of(row, SINGLE, device=device, seed=seed)) for row in report.single}
    id_ = next(iter(scorers.values())).data.ids()[picture]
    draw_methods(scorers, id_, out / "methods.png", command=this_command())
