"""`conceptlens bench films`: where a video model sees things that move, and which is which."""

import json
from pathlib import Path
from typing import Annotated

import typer

from conceptlens.cli.checks import check_request
from conceptlens.cli.options import Device, Json, Seed, parse_layers, say
from conceptlens.cli.progress import Form, RowBar, check_form, resumable, this_command
from conceptlens.cli.results import open_session


def films(
    model: Annotated[str, typer.Option("--model", help="Hub id or folder of a video model.")],
    limit: Annotated[int, typer.Option(min=1, help="Only so many films.")] = 60,
    ablate: Annotated[bool, typer.Option("--ablate/--no-ablate", help="Also by layer and by noise level.")] = True,
    match_layers: Annotated[
        str | None, typer.Option(help="Layers whose attention between frames links tracks, as 2,4 or 2-4.")
    ] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the rows, tables and figures.")] = Path(
        "out/films"
    ),
    form: Form = "markdown",
    device: Device = None,
    json_: Json = False,
) -> None:
    """Read films whose every pixel and object is known: are concepts found in each frame, and followed? Resumable."""
    check_form(form)
    check_request({}, seed=seed, out=out)
    from conceptlens.bench.films.report import figures, save, tables
    from conceptlens.bench.films.runs import NOISES, FilmsSpec, run

    linking = () if match_layers is None else parse_layers(match_layers)
    spec = FilmsSpec(limit, seed, NOISES if ablate else (), ablate, linking)
    session = open_session(model, device, quiet=True)
    with resumable():
        header, rows = run(session, spec, out, track=RowBar("films", json_).track, command=this_command())
    save(header, rows, out)
    if json_:
        parts = figures(rows)
        plain = {
            part: {name: {figure: e.rounded() for figure, e in of.items()} for name, of in columns.items()}
            for part, columns in parts.items()
        }
        say(json.dumps(plain))
        return
    say("\n\n".join(table.render(form) for table in tables(header, rows).values()))
    say(f"{out}/films.md, with tables and figures beside it")
