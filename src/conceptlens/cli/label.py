"""`conceptlens label`: prompts, or pictures and words, become a data set with masks."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conceptlens.cli.checks import check_request
from conceptlens.cli.options import (
    Abstain,
    Batch,
    Device,
    Edges,
    Json,
    Layers,
    Model,
    Noise,
    Refine,
    Samples,
    Seed,
    Settings,
    given,
    note,
    recipe_options,
    say,
    settings,
    show,
    table,
    words,
)
from conceptlens.cli.progress import Engine, RowBar, Workers, check_engine, resumable, this_command

if TYPE_CHECKING:
    from conceptlens.labels import Summary

Words = Annotated[
    list[str] | None,
    typer.Option(
        "--words",
        "-w",
        callback=words,
        help="What to find: house, sky. Else what a prompt, or a caption in cat.txt beside cat.png, names.",
    ),
]


def label(
    prompts: Annotated[Path | None, typer.Argument(help="Text file, a prompt per line, or JSON.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of pictures, in place of prompts.")] = None,
    words_: Words = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the data set, to go on with.")] = Path("out/data"),
    model: Model = None,
    per_prompt: Annotated[int, typer.Option(min=1, help="Pictures of each prompt, from different seeds.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many pictures.")] = None,
    seed: Seed = 0,
    preset: Annotated[str, typer.Option(help="sharp: refined maps; paper; none.")] = "sharp",
    refine: Refine = None,
    layers: Layers = None,
    noise: Noise = None,
    samples: Samples = None,
    while_painting: Annotated[
        bool, typer.Option("--while-painting", help="Maps made while painting, not by a reading of the picture.")
    ] = False,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    set_: Settings = None,
    background: Annotated[
        list[str] | None, typer.Option(callback=words, help="Words that compete and are no labels; none.")
    ] = None,
    edges: Edges = False,
    abstain: Abstain = 0.0,
    presence: Annotated[float, typer.Option(help="Least chance that a word is there.")] = 0.5,
    flip: Annotated[float, typer.Option(help="Least IoU with the mirrored picture's mask.")] = 0.6,
    doubt: Annotated[float, typer.Option(help="Greatest mean doubt in a mask, 0 to 0.5.")] = 0.4,
    smallest: Annotated[float, typer.Option(help="Least share of the picture.")] = 0.005,
    largest: Annotated[float, typer.Option(help="Greatest share of the picture.")] = 0.95,
    every: Annotated[bool, typer.Option("--every", help="Keep a picture only if every word passes.")] = False,
    batch: Batch = 1,
    engine: Engine = "local",
    workers: Workers = 1,
    device: Device = None,
    json_: Json = False,
) -> None:
    """Make a data set with masks: PROMPTS are painted, or pictures read; what passes the quality gates is kept."""
    check_engine(engine)
    options = recipe_options(None, False, layers, False, refine) | settings(set_)
    options |= given(noise=noise, samples=samples, num_inference_steps=steps)
    chosen = None if preset == "none" else preset
    others = True if not background else background != ["none"] and tuple(background)
    check_request(options, seed=seed, out=out, preset=chosen, abstain=abstain, concepts=words_ or None)
    from conceptlens.labels import Gates, LabelSpec, Running, read_plan
    from conceptlens.labels import label as run

    gates = Gates(presence, flip, doubt, smallest, largest, every)
    spec = LabelSpec(
        words=tuple(words_) if words_ else None, while_painting=while_painting, per_prompt=per_prompt, model=model,
        device=device, seed=seed, preset=chosen, options=options, background=others, gates=gates, edges=edges,
        abstain=abstain,
    )  # fmt: skip
    plan = read_plan(prompts, images, out, spec)
    bar = RowBar("labelling", json_)
    with resumable():
        summary = run(plan, out, Running(limit, engine, workers, batch, this_command()), track=bar.track)
    if json_:
        say(json.dumps({"out": str(out), **asdict(summary)}))
        return
    _show(summary, out)


def _show(summary: "Summary", out: Path) -> None:
    shown = table("gate", "words rejected", title=f"{summary.labels} of {summary.words} words are labels")
    for gate, count in summary.reasons.items():
        shown.add_row(gate, str(count))
    show(shown)
    for row in summary.bad[:5]:
        note(f"left out {row['id']}: {row['error']}")
    if len(summary.bad) > 5:
        note(f"{len(summary.bad)} pictures were left out in all")
    say(
        f"{summary.kept} of {summary.pictures} pictures kept · {out / 'sheet.png'} shows some of them, "
        f"{out / 'README.md'} says how they were made"
    )
