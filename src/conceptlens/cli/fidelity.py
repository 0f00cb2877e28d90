"""`conceptlens bench fidelity`: do pictures show what their prompts say?"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from conceptlens.cli.options import Device, Json, console, note, say, show, table
from conceptlens.cli.progress import this_command


def fidelity(
    images: Annotated[Path, typer.Argument(help="Folder of pictures, such as 0.png or 0-42.png (prompt, seed).")],
    prompts: Annotated[Path, typer.Option(help="Text file, a prompt per line; JSON; or a TIFA question file.")],
    metric: Annotated[str, typer.Option(help="tifa, clip or blip-vqa.")] = "clip",
    model: Annotated[
        str | None, typer.Option(help="Hub id or folder of the judge; the published one if not given.")
    ] = None,
    second: Annotated[
        str | None, typer.Option(help="Sentence model of tifa, captioner of clip (none: no captions).")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many pictures.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the rows, to go on with; out/fidelity/METRIC.")
    ] = None,
    device: Device = None,
    json_: Json = False,
) -> None:
    """Score pictures against their prompts: one row per picture, figures with intervals, resumable."""
    from rich.progress import track as progress

    from conceptlens.readers.opening import quiet_loading

    with quiet_loading(progress=False):
        from conceptlens.bench.fidelity.prompts import FidelityError
        from conceptlens.bench.fidelity.runs import Scorer, open_scorer, run

    def opened() -> Scorer:
        with console().status("opening the models"):
            return open_scorer(metric, model, second=second, device=device)

    summary = run(
        opened, images, prompts, out or Path("out/fidelity", metric), limit=limit,
        command=this_command(),
        track=lambda rows, total: progress(
            rows, metric, total, console=console(), transient=True, disable=json_ or not console().is_terminal
        ),
    )  # fmt: skip
    if not summary["pictures"]:
        bad = summary["bad"]
        raise FidelityError(f"none of {len(bad)} pictures could be scored; {bad[0]['id']}: {bad[0]['error']}")
    say(json.dumps(summary)) if json_ else _show(summary)


def _show(summary: dict[str, Any]) -> None:
    settings = summary["settings"]
    shown = table("score", "mean", "95% interval", "prompts", title=settings["metric"])
    for name, (value, low, high) in summary["metrics"].items():
        shown.add_row(name, f"{value:.4f}", f"{low:.4f} to {high:.4f}", str(summary["prompts"][name]))
    if "tifa" in summary:
        figures = summary["tifa"]
        for kind, value in figures["accuracy_by_type"].items():
            shown.add_row(f"  {kind}", f"{value:.4f}", "", f"{figures['questions_by_type'][kind]} questions")
    show(shown)
    for bad in summary["bad"][:5]:
        note(f"skipped {bad['id']}: {bad['error']}")
    if len(summary["bad"]) > 5:
        note(f"{len(summary['bad'])} pictures were skipped in all")
    missing = summary["prompts_without_picture"]
    line = f"{summary['pictures']} pictures" + (f" · {missing} prompts without a picture" if missing else "")
    if "tifa" in summary and summary["tifa"]["tifa_stdev"] is not None:
        line += f" · standard deviation over captions {summary['tifa']['tifa_stdev']:.4f}"
    say(line)
    say("Protocol: " + ", ".join(f"{key}={value}" for key, value in settings.items()))
    say("Versions: " + ", ".join(f"{name} {version}" for name, version in summary["versions"].items()))
    say(f"Means over prompts of means over their pictures, intervals by bootstrap over prompts · {summary['command']}")
