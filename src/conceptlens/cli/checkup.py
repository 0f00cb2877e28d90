"""`conceptlens checkup`: how good maps are on a model of one's own, without any data."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conceptlens.cli.checks import check_request
from conceptlens.cli.options import Device, Json, Offload, Seed, Settings, SingleStream, given, say
from conceptlens.cli.options import settings as parse_settings
from conceptlens.cli.progress import RowBar, resumable, this_command
from conceptlens.cli.results import open_session
from conceptlens.values.errors import OutputError, RecipeError
from conceptlens.values.files import check_file

if TYPE_CHECKING:
    from conceptlens.bench.checkup.verdict import Findings


def checkup(
    model: Annotated[str | None, typer.Argument(help="Hub id or folder; the embedded model if not given.")] = None,
    nouns: Annotated[str | None, typer.Option(help="What it paints, for example cat,dog,house,boat,tree.")] = None,
    template: Annotated[str | None, typer.Option(help='The prompt, for example "a photo of a {}".')] = None,
    pictures: Annotated[int, typer.Option(help="Of each noun.")] = 3,
    limit: Annotated[int, typer.Option(help="Collages.")] = 60,
    noise: Annotated[str | None, typer.Option(help="Levels to read at, for example 0.2,0.5,0.8.")] = None,
    seed: Seed = 0,
    set_: Settings = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run, to keep or to go on with.")] = Path(
        "out/checkup"
    ),
    save: Annotated[bool, typer.Option("--save", help="Open the model so from now on.")] = False,
    estimate: Annotated[bool, typer.Option("--estimate", help="Say how long it takes, and stop.")] = False,
    device: Device = None,
    offload: Offload = False,
    single_stream: SingleStream = False,
    json_: Json = False,
) -> None:
    """How good maps are on MODEL: measured on collages of what it paints itself, without any data."""
    call, levels = parse_settings(set_), _levels(noise)
    check_request(call, seed=seed, out=out)
    names = None if nouns is None else tuple(nouns.split(","))
    settings = given(noises=levels) | {"pictures": pictures, "limit": limit, "seed": seed, "call": call}
    from conceptlens.bench.checkup.plan import Plan
    from conceptlens.bench.checkup.run import Checkup
    from conceptlens.readers.loading import defaults_file

    if save:
        _check_saving(defaults_file(model))
    session = open_session(model, device, offload, single_stream, quiet=True)
    plan = Plan.of(session, names, template, **settings)
    with resumable(), Checkup(session, plan, out, command=this_command()) as run:
        forecast = run.forecast()
        if not json_ or estimate:
            say(forecast.text())
        if estimate:
            return
        run.paint(RowBar("painting", json_).track)
        run.read(RowBar("reading", json_).track)
        found = run.findings()
        run.write(found)
        if save and found.trusted:
            found.save(defaults_file(model))
    say(json.dumps(found.summary()) if json_ else _report(found, out, save, defaults_file(model)))


def _check_saving(file: Path) -> None:
    """Raises an `OutputError`, before anything is painted, for a file that cannot be written."""
    check_file(file)
    below = next(path for path in (file, *file.absolute().parents) if path.exists())
    if not os.access(below, os.W_OK):
        raise OutputError(f"cannot write {file}: {below} is read-only. Leave --save out, or set CONCEPTLENS_HOME.")


def _report(found: "Findings", out: Path, save: bool, file: Path) -> str:
    lines = [found.text(), f"{out / 'checkup.html'} shows it, {out / 'checkup.json'} has the figures"]
    if save:
        lines.append(f"saved to {file}; load uses it from now on" if found.trusted else "nothing was saved")
    return "\n".join(lines)


def _levels(text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise RecipeError(f"--noise takes levels from 0 to 1, for example 0.2,0.5,0.8; got {text!r:.60}.") from error
