"""The command line: one command is one function of the session."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from conceptlens._version import __version__
from conceptlens.cli.checks import check_method, check_request
from conceptlens.cli.checkup import checkup
from conceptlens.cli.findings import findings
from conceptlens.cli.label import label
from conceptlens.cli.listings import methods, show_served
from conceptlens.cli.options import (
    Abstain,
    Batch,
    Concepts,
    Device,
    Edges,
    Guide,
    Isolate,
    Json,
    Layers,
    Model,
    Noise,
    Offload,
    Out,
    Preset,
    Prompt,
    PromptConcepts,
    Raw,
    Refine,
    Samples,
    Seed,
    Settings,
    SingleStream,
    Space,
    console,
    given,
    guidance_of,
    recipe_options,
    say,
    settings,
)
from conceptlens.cli.results import (
    explains,
    finish,
    finish_all,
    judged,
    open_method,
    open_session,
    opens,
    pictures_at,
    reads,
    refined,
    suggest_more_words,
)
from conceptlens.values.errors import RecipeError
from conceptlens.values.example import EXAMPLES

app = typer.Typer(
    help="See where a diffusion transformer sees a concept.",
    no_args_is_help=True,
    rich_markup_mode=None,  # quick to start, and [brackets] in help texts are no markup
    pretty_exceptions_enable=False,
)


class _Bench(TyperGroup):
    """The commands of `bench`, built when one of them is asked for, since that takes as long as all the others."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 - whose click, is a matter of typer's version
        self._fill()
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401 - likewise
        self._fill()
        return super().get_command(ctx, cmd_name)

    def _fill(self) -> None:
        if not self.commands:
            from conceptlens.cli.bench import bench

            self.commands.update(typer.main.get_group(bench).commands)


app.add_typer(
    typer.Typer(help="Score methods on images with known masks.", no_args_is_help=True, rich_markup_mode=None),
    name="bench",
    cls=_Bench,
)

DEMO = EXAMPLES["demo"]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"conceptlens {__version__}")
        raise typer.Exit


@app.command()
def demo(out: Out = Path("out/demo"), seed: Seed = DEMO.seed, json_: Json = False) -> None:
    """Paint a picture with the embedded model and show where each concept is. No download."""
    check_request({}, seed=seed, out=out)
    session = open_session(None, quiet=json_)
    maps = session.generate(DEMO.prompt, DEMO.words, seed=seed)
    finish(refined(judged(session, maps), edges=True, abstain=0.0), out, json_)


@app.command()
def generate(
    prompt: str,
    concept: PromptConcepts = None,
    out: Out = Path("out"),
    model: Model = None,
    seed: Seed = 0,
    space: Space = None,
    raw: Raw = False,
    layers: Layers = None,
    preset: Preset = None,
    isolate: Isolate = False,
    refine: Refine = None,
    edges: Edges = False,
    abstain: Abstain = 0.0,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    guide: Guide = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also paint it without guidance, side by side.")] = False,
    set_: Settings = None,
    device: Device = None,
    offload: Offload = False,
    single_stream: SingleStream = False,
    json_: Json = False,
) -> None:
    """Paint PROMPT and map the concepts while at it; with --guide, so that the maps say what the prompt says."""
    options = recipe_options(space, raw, layers, isolate, refine)
    options |= given(num_inference_steps=steps, height=height, width=width) | settings(set_)
    check_request(options, prompt=prompt, concepts=concept or None, seed=seed, out=out, preset=preset, abstain=abstain)
    options |= given(guide=guidance_of(guide, options), compare=compare or None, preset=preset)
    session = open_session(model, device, offload, single_stream, quiet=json_)
    painted: Any = session.generate(prompt, concept or None, seed=seed, **options)
    several: list[Any] = painted if isinstance(painted, list) else [painted]
    results = [refined(judged(session, maps), edges, abstain) for maps in several]
    finish(results if isinstance(painted, list) else results[0], out, json_)
    if not concept and not json_:
        suggest_more_words(results[0])


@app.command()
def read(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures, or folders of them; films.")],
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
    refine: Refine = None,
    edges: Edges = False,
    abstain: Abstain = 0.0,
    batch: Batch = 1,
    record: Annotated[Path | None, typer.Option(help="Keep what was read in this file, for `probe`.")] = None,
    method: Annotated[str | None, typer.Option(help="Another way to look; `conceptlens methods` lists them.")] = None,
    set_: Settings = None,
    device: Device = None,
    offload: Offload = False,
    single_stream: SingleStream = False,
    json_: Json = False,
) -> None:
    """Map concepts in existing pictures: one into the folder of results, each of several into a folder within it.

    A video model reads films too: a moving GIF, an MP4 or a WebM.
    """
    options = recipe_options(space, raw, layers, isolate, refine) | given(noise=noise, samples=samples) | settings(set_)
    if method is not None:
        if record is not None or space is not None:
            raise RecipeError("--record and --space are of what a model reads by itself. Drop them, or --method.")
        check_method(method)
        check_request({}, concepts=concept, seed=seed, out=out, abstain=abstain)
    else:
        check_request(options, concepts=concept, seed=seed, out=out, preset=preset, abstain=abstain, record=record)
    pictures = pictures_at(images, out)
    if record is not None and len(pictures) > 1:
        raise RecipeError(f"--record keeps one picture; got {len(pictures)}. Read them one by one.")
    if method is not None:
        from conceptlens.maps.picture_files import open_image

        opened = open_method(method, model, device, options)
        mapped, held, opening = explains(opened, concept, prompt, seed), opened.texts_held(), open_image
    else:
        session = open_session(model, device, offload, single_stream, quiet=json_)
        mapped = reads(session, concept, record, prompt=prompt, seed=seed, preset=preset, **options)
        held, opening = session.reader.texts_held(), opens(session, options)

    def results(several: list[Any]) -> list[Any]:
        return [refined(maps, edges, abstain) for maps in mapped(several)]

    with held:
        finish_all(pictures, opening, results, json_, batch)


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
    refine: Refine = None,
    edges: Edges = False,
    abstain: Abstain = 0.0,
    device: Device = None,
    single_stream: SingleStream = False,
    json_: Json = False,
) -> None:
    """Ask a RECORD, kept by `read --record`, for other concepts, without running the model."""
    options = recipe_options(space, raw, layers, isolate, refine)
    check_request(options, concepts=concept, out=out, abstain=abstain)
    from conceptlens.values.record_files import load_record

    seen = load_record(record)
    session = open_session(model, device, single_stream=single_stream, quiet=json_)
    maps = judged(session, session.probe(seen, concept, **options), seen, again=False)
    finish(refined(maps, edges, abstain), out, json_)


app.command()(methods)


@app.command()
def doctor(
    model: Annotated[str | None, typer.Argument(help="Hub id, folder or transformer class; demo.")] = None,
    height: Annotated[int, typer.Option(min=1, help="Pixels.")] = 1024,
    width: Annotated[int, typer.Option(min=1, help="Pixels.")] = 1024,
    frames: Annotated[int, typer.Option(min=1, help="Latent frames of a video.")] = 1,
    all_: Annotated[bool, typer.Option("--all", help="Every class that is served, on tiny weights.")] = False,
    json_: Json = False,
) -> None:
    """Say whether maps work on MODEL (hub id, folder or transformer class), how, and at what cost."""
    if all_ == (model is not None):
        raise typer.BadParameter("name one model, or give --all.")
    if model is None:
        show_served(json_)
        return
    from conceptlens.diagnosis import doctor as examine

    with console().status("examining the model"):
        diagnosis = examine(model, height=height, width=width, frames=frames)
    content = {**asdict(diagnosis), "ok": diagnosis.ok}
    say(json.dumps(content, default=str) if json_ else diagnosis.describe())
    if not diagnosis.ok:
        raise typer.Exit(2)


@app.command()
def rerun(
    file: Path,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the new results.")] = None,
    device: Device = None,
) -> None:
    """Repeat a saved result (FILE: a maps.json, or its folder) and say how far the new maps are from the saved ones."""
    from conceptlens.rerun import difference
    from conceptlens.rerun import rerun as repeat

    if out is not None:
        check_request({}, out=out)
    maps = repeat(file, device=device)
    if out is not None:
        from conceptlens.maps.video_maps import VideoMaps

        maps.save(out)
        film = isinstance(maps, VideoMaps)
        beside = "every frame, timeline.png" if film else "heat maps, masks"
        say(f"{out / ('overlay.gif' if film else 'overlay.png')}, with {beside} and maps.json beside it")
    say(f"largest difference to the saved scores: {difference(maps, file):.3g}")
    say(maps.describe())


app.command()(checkup)
app.command()(findings)
app.command()(label)


@app.command("app")
def app_(
    model: Model = None,
    host: Annotated[str, typer.Option(help="Address; the page has no passwords, so keep it local.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any free one.")] = 8321,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name under which other computers may ask for the page; '*' for any. Needed with --host."),
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
    device: Device = None,
    offload: Offload = False,
    single_stream: SingleStream = False,
) -> None:
    """Open a page: paint or drop a picture, type any word, see its map at once."""
    from conceptlens.web import serve
    from conceptlens.web.addresses import allowed_hosts

    names = tuple(allow_host or ())
    allowed_hosts(host, names)  # refused before a model is opened
    session = open_session(model, device, offload, single_stream, quiet=True)
    session.require("record")  # the page asks what it painted for further words
    serve(session, host, port, browser, announce=lambda url: say(f"{url}  (stop with Ctrl-C)"), allow_hosts=names)


@app.command()
def mcp(
    model: Model = None, device: Device = None, offload: Offload = False, single_stream: SingleStream = False
) -> None:
    """Serve the tools read, probe, presence and places to an agent, over standard input and output (MCP)."""
    from conceptlens.web.agents import create_server

    create_server(open_session(model, device, offload, single_stream, quiet=True)).run()
