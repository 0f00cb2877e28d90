"""`conceptlens bench faithful`: does the model use what a map shows?"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from conceptlens.cli.checks import check_method, check_request
from conceptlens.cli.options import Device, Json, Model, Seed, console, given, note, say, settings
from conceptlens.cli.options import Settings as PipelineSettings
from conceptlens.cli.progress import Form, check_form, resumable, this_command
from conceptlens.cli.results import open_session
from conceptlens.values.errors import RecipeError


def faithful(
    method: Annotated[
        list[str] | None,
        typer.Option(help="A method, NAME or NAME=MODEL, or while-painting; repeat it for more."),
    ] = None,
    model: Model = None,
    prompts: Annotated[
        Path | None, typer.Option(help='File of lines "prompt | word [| prompt without it]"; scenes if not given.')
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Only so many prompts.")] = 40,
    first_step: Annotated[float, typer.Option(help="Share of the steps before rows are replaced, 0 to below 1.")] = 0.2,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    seed: Seed = 0,
    set_: PipelineSettings = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the rows and the table.")] = Path("out/faithful"),
    form: Form = "markdown",
    device: Device = None,
    json_: Json = False,
) -> None:
    """Replace what a map shows while the picture is painted: does the word vanish, and only then? Resumable."""
    from rich.progress import track as progress

    check_form(form)
    call = given(num_inference_steps=steps) | settings(set_)
    check_request(call, seed=seed, out=out)
    for name in method or ():
        if name != "while-painting":
            check_method(name.partition("=")[0])
    from conceptlens.bench.faithful.cases import read_cases, storybook_cases
    from conceptlens.bench.faithful.report import figures, table
    from conceptlens.bench.faithful.runs import FaithfulSpec, judge_by_presence, run

    cases = (storybook_cases(limit) if prompts is None else read_cases(prompts))[:limit]
    chosen = {"methods": tuple(method)} if method else {}
    spec = FaithfulSpec(cases, seed=seed, first_step=first_step, call=call, **chosen)
    session = open_session(model, device, quiet=True)
    judge = judge_by_presence(session)
    with resumable():
        header, rows = run(
            session, spec, judge, out, command=this_command(),
            track=lambda rows, total: progress(
                rows, "repainting", total, console=console(), transient=True, disable=json_ or not console().is_terminal
            ),
        )  # fmt: skip
    bad = [row for row in rows if "left_out" in row]
    for row in bad[:5]:
        note(f"left out {row['prompt']!r}: {row['left_out']}")
    if len(bad) == len(rows):
        raise RecipeError(f"none of {len(rows)} pictures shows its word; so nothing can vanish. Try other prompts.")
    if json_:
        say(json.dumps({n: {c: asdict(e) for c, e in columns.items()} for n, columns in figures(rows).items()}))
        return
    made = table(header, rows)
    made.save(out, "faithful")
    say(made.render(form))
    say(f"{out}/faithful.md, .tex and .csv")
