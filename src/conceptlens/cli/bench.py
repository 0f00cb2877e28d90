"""`conceptlens bench`: score methods on images with known masks, ablate, report."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from conceptlens.cli.checks import check_method, check_request
from conceptlens.cli.faithful import faithful
from conceptlens.cli.fidelity import fidelity
from conceptlens.cli.films import films
from conceptlens.cli.options import (
    Batch,
    Device,
    Isolate,
    Json,
    Layers,
    Noise,
    Raw,
    Refine,
    Samples,
    Seed,
    given,
    note,
    recipe_options,
    say,
    show,
    table,
)
from conceptlens.cli.options import settings as parse_settings
from conceptlens.cli.progress import Engine, Form, RowBar, Workers, check_engine, check_form, resumable, this_command
from conceptlens.cli.table import table_
from conceptlens.values.listings import datasets

if TYPE_CHECKING:
    from conceptlens.bench.report import Report

bench = typer.Typer(rich_markup_mode=None)

Method = Annotated[str, typer.Option(help="A method; `conceptlens methods` lists them.")]
ModelId = Annotated[str | None, typer.Option("--model", help="Hub id or folder; the method's own if not given.")]
ProtocolName = Annotated[
    str, typer.Option("--protocol", help="fixed, paper, chefer, gandelsman, gt-prompt, full-vocab or bg-threshold.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only so many images.")]
Data = Annotated[Path | None, typer.Option(help="Folder of the dataset.", envvar="CONCEPTLENS_DATA")]
RunOut = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run, to keep or to go on with.")]
MethodSettings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method.")
]
DataSettings = Annotated[list[str] | None, typer.Option("--data-set", metavar="KEY=VALUE", help="Of the dataset.")]
DEFAULT_LIMITS = {"scenes": 200, "scenes-single": 200}


def _run(
    dataset: str,
    method: Method = "concept-attention",
    model: ModelId = None,
    protocol: ProtocolName = "fixed",
    data: Data = None,
    limit: Limit = None,
    seed: Seed = 0,
    noise: Noise = None,
    samples: Samples = None,
    raw: Raw = False,
    layers: Layers = None,
    isolate: Isolate = False,
    refine: Refine = None,
    set_: MethodSettings = None,
    data_set: DataSettings = None,
    batch: Batch = 1,
    engine: Engine = "local",
    workers: Workers = 1,
    out: RunOut = None,
    device: Device = None,
    json_: Json = False,
) -> None:
    """Score a method on a dataset: one row per image, figures with intervals, resumable."""
    check_engine(engine)
    options = recipe_options(None, raw, layers, isolate, refine)
    options |= given(noise=noise, samples=samples) | parse_settings(set_)
    check_method(method)
    check_request(options, seed=seed, out=out)
    from conceptlens.bench.report import Report
    from conceptlens.bench.runs import run
    from conceptlens.bench.scorer import RunSpec

    spec = RunSpec(
        dataset, method, protocol, model, None if data is None else str(data), device, seed, options,
        parse_settings(data_set),
    )  # fmt: skip
    limit = limit or DEFAULT_LIMITS.get(dataset)
    bar = RowBar(dataset, json_)
    with resumable():
        header, rows = run(
            spec,
            out,
            limit=limit,
            engine=engine,
            workers=workers,
            batch=batch,
            track=bar.track,
            command=this_command(),
        )
    report = Report(header, rows)
    _check_scored(report)
    if json_:
        say(json.dumps(report.summary()))
        return
    _show(report)


def _command_of(dataset: str) -> Callable[..., None]:
    """`_run` on one dataset, with the options of `_run`: each dataset is a separate command."""

    def command(**options: Any) -> None:
        _run(dataset, **options)

    hints = get_type_hints(_run, include_extras=True)
    shape = inspect.signature(_run)
    rest = [p.replace(annotation=hints[name]) for name, p in shape.parameters.items() if name != "dataset"]
    command.__signature__ = shape.replace(parameters=rest)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in rest}
    return command


for _name, _facts in datasets().items():
    _help = f"{_run.__doc__}\n\n{_facts['summary']}. {_facts['needs']}"
    bench.command(_name, short_help=_facts["summary"], help=_help)(_command_of(_name))


@bench.command("ablate")
def ablate_(
    axis: Annotated[str, typer.Argument(help="space, attention, layers, noise, samples, concepts or refine.")],
    dataset: Annotated[str, typer.Option(help="What to run on.")] = "scenes",
    model: ModelId = None,
    protocol: ProtocolName = "fixed",
    data: Data = None,
    limit: Limit = None,
    seed: Seed = 0,
    set_: MethodSettings = None,
    data_set: DataSettings = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for rows, tables and figures.")] = Path("out/ablate"),
    form: Form = "markdown",
    device: Device = None,
) -> None:
    """Vary one thing of concept attention, all else equal: tables and figures like the paper's."""
    check_form(form)
    check_request({}, seed=seed, out=out)
    from conceptlens.bench.ablate import ablate
    from conceptlens.bench.figures import draw
    from conceptlens.bench.scorer import RunSpec
    from conceptlens.bench.tables import ablation_table

    spec = RunSpec(
        dataset, "concept-attention", protocol, model, None if data is None else str(data), device, seed,
        parse_settings(set_), parse_settings(data_set),
    )  # fmt: skip
    bar = RowBar(f"{axis} on {dataset}", quiet=False)
    limit = limit or DEFAULT_LIMITS.get(dataset)
    folder = out / axis
    with resumable():
        reports = ablate(spec, axis, folder, limit=limit, track=bar.track, command=this_command())
    for report in reports.values():
        _check_scored(report)
    ablation = ablation_table(reports, axis, this_command())
    ablation.save(folder, axis)
    draw(reports, axis, [folder / f"{axis}.png", folder / f"{axis}.svg"], command=this_command())
    say(ablation.render(form))
    say(f"{folder}/{axis}.png, .svg, .md, .tex, .csv")


@bench.command("report")
def report_(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders that hold some.")],
    form: Form = "markdown",
    json_: Json = False,
) -> None:
    """A leaderboard of stored runs, the paper's figures beside them."""
    check_form(form)
    from conceptlens.bench.report import Report
    from conceptlens.bench.rows import REPORT, RUN, RunError
    from conceptlens.bench.tables import leaderboard

    runs = sorted({path.parent for folder in folders for name in (RUN, REPORT) for path in folder.rglob(name)})
    # Runs of `bench fidelity` have no dataset and no masks.
    reports = [report for report in map(Report.load, runs) if "dataset" in report.settings]
    if not reports:
        raise RunError(f"no run in {', '.join(map(str, folders))}. Make one with conceptlens bench ... --out.")
    if json_:
        say(json.dumps([report.summary() for report in reports]))
        return
    say("\n\n".join(board.render(form) for board in leaderboard(reports)))


bench.command()(fidelity)
bench.command()(faithful)
bench.command()(films)
bench.command("table")(table_)


def _check_scored(report: "Report") -> None:
    """Names the images that were skipped.

    Raises:
        RunError: when nothing else is left.
    """
    from conceptlens.bench.rows import RunError

    if not report.good:
        why = f"{report.bad[0]['id']}: {report.bad[0]['error']}" if report.bad else "the dataset has none."
        raise RunError(f"none of {len(report.bad)} images could be scored; {why}")
    for row in report.bad[:5]:
        note(f"skipped {row['id']}: {row['error']}")
    if len(report.bad) > 5:
        note(f"{len(report.bad)} images were skipped in all")


def _show(report: "Report") -> None:
    from conceptlens.bench.tables import HEADINGS, protocol_line

    settings = report.settings
    title = f"{settings['method']} on {settings['dataset']}, protocol {report.protocol['name']}"
    shown = table("metric", "value", "95% interval", title=title)
    for name, estimate in report.metrics.items():
        shown.add_row(HEADINGS[name], f"{estimate.value:.4f}", f"{estimate.low:.4f} to {estimate.high:.4f}")
    show(shown)
    if report.paper:
        say(f"paper: {' / '.join(map(str, report.paper))} (Acc / mIoU / AP, per cent)")
    counted = f"{len(report.good)} images" + (f", {len(report.bad)} bad" if report.bad else "")
    peak = f" · peak {report.header['peak_memory_mb']} MB" if "peak_memory_mb" in report.header else ""
    say(f"{counted} · model {settings['model']} · seed {settings['seed']} · {report.seconds} s/image{peak}")
    say(protocol_line(report.protocol))
    if report.protocol["mask"] == "mean":
        say(
            "Accuracy and IoU are of masks cut at the mean of each map, AP is of the map without a cut: a high AP "
            "beside a low accuracy means that the map ranks the pixels well and that its mean is a poor place to cut."
        )
    say(f"Intervals by bootstrap over images · {report.header['command']}")
