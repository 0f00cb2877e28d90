"""`conceptlens findings`: what the T-SAM paper found about text and cross-attention, on any model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conceptlens.cli.checks import check_request
from conceptlens.cli.options import Device, Seed, Settings, console, say, show, table
from conceptlens.cli.options import settings as parse_settings
from conceptlens.cli.progress import this_command
from conceptlens.values.errors import RecipeError

if TYPE_CHECKING:
    from conceptlens.bench.findings.finding import Finding
    from conceptlens.bench.findings.painting import Painting

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
    from conceptlens.readers.opening import quiet_loading

    with quiet_loading(progress=False):
        from conceptlens.bench.findings.painting import DEMO, Painting
        from conceptlens.bench.findings.prompts import prompts_named

    asked = prompts_named(prompts or ("scenes" if model in (DEMO, "demo") else "objects"), limit)
    painting = Painting(model, step, options, size, device)
    with console().status(f"measuring {name} on {len(asked)} prompts"):
        finding = _measured(name, painting, asked, verdicts, out, seed)
        if isinstance(finding, str):
            say(finding)
            return
        finding.save(out, this_command())
    _show(finding)
    say(f"{finding.counted()} · model {model}")
    say(f"{out / name}.json, {out / name}.png")


def _measured(
    name: str, painting: "Painting", prompts: Sequence[str], verdicts: Path | None, out: Path, seed: int
) -> "Finding | str":
    """The finding; a text where its pictures must be judged first (`outcomes`)."""
    from conceptlens.bench.findings import binding, maps, sink
    from conceptlens.bench.findings.outcomes import outcomes
    from conceptlens.bench.findings.painting import DEMO
    from conceptlens.guidance import demo_folder
    from conceptlens.readers.loading import demo_folder as demo_transformer
    from conceptlens.readers.text_side import load_text_side

    if name == "outcomes":
        return outcomes(painting, prompts, verdicts, out, seed=seed)
    if name == "maps":
        return maps.measure(painting, prompts, seed=seed)
    measures = {"embeddings": binding.embeddings, "attention": binding.attention, "sink": sink.measure}
    folder = {DEMO: demo_folder(), "demo": demo_transformer()}.get(painting.model, painting.model)
    return measures[name](painting.model, load_text_side(folder, device=painting.device), prompts)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    rows, cross, cols = text.partition("x")
    if not (cross and rows.isdigit() and cols.isdigit()):
        raise RecipeError(f"--attention-size takes ROWSxCOLS, for example 16x16; got {text!r}.")
    return int(rows), int(cols)


def _show(finding: "Finding") -> None:
    shown = table(*finding.table.head, title=finding.table.title)
    for row in finding.table.body:
        shown.add_row(*row)
    show(shown)
    for note in finding.table.notes:
        say(note)
