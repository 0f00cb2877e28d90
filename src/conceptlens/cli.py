"""The command line: one command is one function of the session."""

from __future__ import annotations

import json
import os
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from conceptlens._version import __version__
from conceptlens.errors import ConceptlensError, RecipeError

app = typer.Typer(
    help="See where a diffusion transformer sees a concept.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
bench = typer.Typer(help="Score methods on images with known masks.", no_args_is_help=True)
app.add_typer(bench, name="bench")
console = Console(stderr=True, highlight=False)

DEMO_PROMPT = "a red house and a tree under the sun"
DEMO_SEED = 17  # one of those that paint all three objects; about one in three does
DEMO_CONCEPTS = ["house", "tree", "sun", "sky", "grass"]

Model = Annotated[str | None, typer.Option(help="Hub id or folder; the embedded model if not given.", metavar="MODEL")]
Concepts = Annotated[list[str], typer.Option("--concept", "-c", help="A word to find; repeat it for more.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
Seed = Annotated[int, typer.Option(help="Of the noise.")]
Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable line.")]
Space = Annotated[str | None, typer.Option(help="output, cross or value.")]
Raw = Annotated[bool, typer.Option("--raw", help="No softmax over the concepts.")]
Layers = Annotated[str | None, typer.Option(help="Blocks to average, for example 3,4,5 or 2-5.")]
Preset = Annotated[str | None, typer.Option(help="paper: the settings of the official code.")]
Noise = Annotated[float | None, typer.Option(help="Noise level, 0 (clean) to 1.")]
Samples = Annotated[int | None, typer.Option(help="Noise draws to average.")]
Isolate = Annotated[bool, typer.Option("--isolate", help="Concepts do not see each other.")]
Prompt = Annotated[str, typer.Option(help="What to tell the model about the image.")]
Device = Annotated[str | None, typer.Option(help="cuda, cpu, ...")]
Offload = Annotated[bool, typer.Option("--offload", help="Keep on the GPU only the part that runs.")]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"conceptlens {__version__}")
        raise typer.Exit


@app.command()
def demo(out: Out = Path("out/demo"), seed: Seed = DEMO_SEED, json_: Json = False) -> None:
    """Paint a picture with the embedded model and show where each concept is. No download."""
    session = _open(None, None, False, quiet=json_)
    maps = session.generate(DEMO_PROMPT, DEMO_CONCEPTS, seed=seed)
    _finish(maps, out, json_)


@app.command()
def generate(
    prompt: str,
    concept: Concepts,
    out: Out = Path("out"),
    model: Model = None,
    seed: Seed = 0,
    space: Space = None,
    raw: Raw = False,
    layers: Layers = None,
    preset: Preset = None,
    isolate: Isolate = False,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other pipeline or recipe option.")
    ] = None,
    device: Device = None,
    offload: Offload = False,
    json_: Json = False,
) -> None:
    """Paint PROMPT and map the concepts while at it."""
    options = _recipe_options(space, raw, layers, isolate)
    options |= _given(num_inference_steps=steps, height=height, width=width) | _settings(set_)
    session = _open(model, device, offload, quiet=json_)
    maps = session.generate(prompt, concept, seed=seed, preset=preset, **options)
    _finish(maps, out, json_)


@app.command()
def read(
    image: Path,
    concept: Concepts,
    out: Out = Path("out"),
    model: Model = None,
    prompt: Prompt = "",
    noise: Noise = None,
    samples: Samples = None,
    seed: Seed = 0,
    space: Space = None,
    raw: Raw = False,
    layers: Layers = None,
    preset: Preset = None,
    isolate: Isolate = False,
    record: Annotated[Path | None, typer.Option(help="Keep what was read in this file, for `probe`.")] = None,
    device: Device = None,
    offload: Offload = False,
    json_: Json = False,
) -> None:
    """Map concepts in an existing IMAGE."""
    options = _recipe_options(space, raw, layers, isolate) | _given(noise=noise, samples=samples)
    session = _open(model, device, offload, quiet=json_)
    seen = session.read(image, prompt=prompt, seed=seed, preset=preset, **options)
    maps = session.probe(seen, concept)
    if record is not None:
        session.save_record(seen, record)
    _finish(maps, out, json_)


@app.command()
def probe(
    record: Path,
    concept: Concepts,
    out: Out = Path("out"),
    model: Model = None,
    space: Space = None,
    raw: Raw = False,
    layers: Layers = None,
    isolate: Isolate = False,
    device: Device = None,
    json_: Json = False,
) -> None:
    """Ask a RECORD, kept by `read --record`, for other concepts, without running the model."""
    options = _recipe_options(space, raw, layers, isolate)
    session = _open(model, device, False, quiet=json_)
    _finish(session.probe(session.load_record(record), concept, **options), out, json_)


@bench.command("scenes")
def bench_scenes(
    method: Annotated[str, typer.Option(help="A method; an unknown name lists them.")] = "concept-attention",
    limit: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 200,
    seed: Seed = 0,
    model: Model = None,
    noise: Noise = None,
    samples: Samples = None,
    raw: Raw = False,
    layers: Layers = None,
    isolate: Isolate = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the report with all rows.")] = None,
    device: Device = None,
    json_: Json = False,
) -> None:
    """Score a method on held-out storybook scenes, which have exact masks."""
    from conceptlens.bench.protocol import run_scenes

    options = _recipe_options(None, raw, layers, isolate) | _given(noise=noise, samples=samples)
    session = _open(model, device, False, quiet=True)
    bar = None if json_ else (lambda scenes: track(scenes, "scenes", total=limit, console=console))
    command = f"conceptlens {shlex.join(sys.argv[1:])}"
    watch: dict[str, Any] = {"track": bar} if bar else {}
    report = run_scenes(session, method, limit=limit, seed=seed, command=command, **watch, **options)
    if out is not None:
        report.save(out)
    summary = report.summary()
    if json_:
        typer.echo(json.dumps(summary))
        return
    table = Table(
        "method", "accuracy", "mIoU", "AP", "ROC-AUC", "images", title=f"{report.dataset} · {report.model_id}"
    )
    cells = [f"{summary[m]:.3f} [{low:.3f}, {high:.3f}]" for m, (low, high) in summary["interval95"].items()]
    table.add_row(method, *cells, str(summary["images"]))
    Console().print(table)
    typer.echo(f"95% bootstrap intervals over images · {report.command}")


def _open(model: str | None, device: str | None, offload: bool, *, quiet: bool) -> Any:
    """Opens the model; the heavy imports happen here, so that `--help` and `--version` are quick."""
    from conceptlens.session import load

    with console.status("opening the model"):
        session = load(model, device=device, offload=offload)
    session.pipeline.set_progress_bar_config(disable=quiet or not console.is_terminal, leave=False, desc="painting")
    return session


def _recipe_options(space: str | None, raw: bool, layers: str | None, isolate: bool) -> dict[str, Any]:
    return _given(
        space=space,
        softmax=False if raw else None,
        layers=None if layers is None else parse_layers(layers),
        isolate=isolate or None,
    )


def _given(**options: Any) -> dict[str, Any]:
    """The options that were set on the command line; the others keep the library's defaults."""
    return {name: value for name, value in options.items() if value is not None}


def parse_layers(text: str) -> tuple[int, ...]:
    """Block numbers from text such as "3,4,5" or "2-5" or "-1".

    Raises:
        RecipeError: for anything else.
    """
    numbers: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-") if not part.strip().startswith("-") else (part, "", "")
            numbers += range(int(first), int(last) + 1) if dash else [int(first)]
    except ValueError as error:
        raise RecipeError(f"layers must look like 3,4,5 or 2-5; got {text!r}.") from error
    return tuple(numbers)


def _settings(pairs: list[str] | None) -> dict[str, Any]:
    options = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise RecipeError(f"--set takes KEY=VALUE, for example guidance_scale=3.5; got {pair!r}.")
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return options


def _finish(made: Any, out: Path, json_: bool) -> None:
    """Saves and shows one result, or each of several in a folder of its own."""
    if isinstance(made, list):
        for number, maps in enumerate(made):
            _finish(maps, out / str(number), json_)
        return
    maps = made
    maps.save(out)
    if json_:
        peaks = {name: round(float(maps[name].max()), 4) for name in maps.asked}
        typer.echo(json.dumps({"out": str(out), **maps.provenance(), "peak": peaks}))
        return
    table = Table("concept", "share of the image", "peak score", box=None)
    winners = maps.segmentation()
    for number, name in enumerate(maps.asked):
        table.add_row(name, f"{(winners == number).mean():.0%}", f"{float(maps[name].max()):.3f}")
    Console().print(table)
    typer.echo(f"{out / 'overlay.png'}, with heat maps, masks and maps.json beside it")
    typer.echo(maps.describe())


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turns our own exceptions into one line and exit code 2."""
    try:
        yield
    except ConceptlensError as error:
        console.print(Text.assemble(("error: ", "red"), str(error)), soft_wrap=True)
        sys.exit(2)


def main() -> None:
    """Entry point of the `conceptlens` command."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    warnings.showwarning = lambda message, *_, **__: console.print(f"note: {message}", soft_wrap=True, markup=False)
    with _plain_errors():
        app()


if __name__ == "__main__":
    main()
