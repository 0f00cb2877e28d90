"""`conceptlens findings`: what the T-SAM paper found about text and cross-attention, on any model."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from conceptlens.cli.checks import check_request
from conceptlens.cli.options import Device, Seed, Settings, console, say, show, table
from conceptlens.cli.options import settings as parse_settings
from conceptlens.values.errors import RecipeError

NAMES = ("maps", "embeddings", "attention", "sink", "outcomes")


def findings(
    name: Annotated[str, typer.Argument(help=f"{', '.join(NAMES)}.")],
    model: Annotated[
        str, typer.Option(help="Hub id or folder; demo-unet or demo for the embedded U-Net or transformer.")
    ] = "demo-unet",
    prompts: Annotated[
        str | None, typer.Option(help="scenes, objects, animals-objects, animals, or a file of prompts.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Only so many prompts.")] = None,
    verdicts: Annotated[
        Path | None, typer.Option(help="outcomes: rows with prompt, seed, objects, right; or a TIFA run's folder.")
    ] = None,
    step: Annotated[int, typer.Option(min=0, help="Denoising step whose maps count (maps, outcomes).")] = 10,
    attention_size: Annotated[
        str | None, typer.Option(help="ROWSxCOLS of the layers that are read; a quarter of the latents if not given.")
    ] = None,
    seed: Seed = 0,
    set_: Settings = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the JSON and the figure.")] = Path(
        "out/findings"
    ),
    device: Device = None,
) -> None:
    """Measure a finding of the T-SAM paper: a table, a JSON with everything behind it, and a figure."""
    if name not in NAMES:
        raise RecipeError(f"no finding {name!r}. Known: {', '.join(NAMES)}.")
    size, options = _size(attention_size), parse_settings(set_)
    check_request({}, seed=seed, out=out)
    from conceptlens.readers.loading import demo_folder as demo_transformer
    from conceptlens.readers.opening import quiet_loading

    with quiet_loading(progress=False):
        from conceptlens.bench.findings import binding, maps, sink
        from conceptlens.bench.findings.outcomes import outcomes
        from conceptlens.bench.findings.painting import DEMO, Painting
        from conceptlens.bench.findings.prompts import prompts_named
        from conceptlens.guidance import demo_folder
        from conceptlens.readers.text_side import load_text_side

    asked = prompts_named(prompts or ("scenes" if model in (DEMO, "demo") else "objects"), limit)
    painting = Painting(model, step, options, size, device)
    command = f"conceptlens {shlex.join(sys.argv[1:])}"
    with console().status(f"measuring {name} on {len(asked)} prompts"):
        if name == "outcomes":
            made = outcomes(painting, asked, verdicts, out, seed=seed)
            if isinstance(made, str):
                say(made)
                return
        elif name == "maps":
            made = maps.measure(painting, asked, seed=seed)
        else:
            measures = {"embeddings": binding.embeddings, "attention": binding.attention, "sink": sink.measure}
            folder = {DEMO: demo_folder(), "demo": demo_transformer()}.get(model, model)
            made = measures[name](model, load_text_side(folder, device=device), asked)
        made.save(out, command)
    _show(made)
    say(f"{made.counted()} · model {model}")
    say(f"{out / name}.json, {out / name}.png")


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    rows, cross, cols = text.partition("x")
    if not (cross and rows.isdigit() and cols.isdigit()):
        raise RecipeError(f"--attention-size takes ROWSxCOLS, for example 16x16; got {text!r}.")
    return int(rows), int(cols)


def _show(made: Any) -> None:
    shown = table(*made.table.head, title=made.table.title)
    for row in made.table.body:
        shown.add_row(*row)
    show(shown)
    for note in made.table.notes:
        say(note)
