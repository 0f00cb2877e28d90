"""Options that several commands share, and what they mean to the library."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.values.errors import RecipeError, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from conceptlens.guidance import Guidance


def words(texts: list[str] | None) -> list[str] | None:
    """Each word by itself: "house, sky" is two."""
    if texts is None:
        return None
    parts = [[part for part in text.split(",") if part.strip()] or [text] for text in texts]
    return [word.strip() for each in parts for word in each]


MOST_LAYERS = 1000
Model = Annotated[str | None, typer.Option(help="Hub id or folder; the embedded model if not given.", metavar="MODEL")]
Concepts = Annotated[
    list[str],
    typer.Option("--concept", "-c", callback=words, help="What to find: a word, or several with commas between."),
]
PromptConcepts = Annotated[
    list[str] | None,
    typer.Option(
        "--concept", "-c", callback=words, help="What to find, as in `read`; the things the prompt names if not given."
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
Seed = Annotated[int, typer.Option(help="Of the noise.")]
Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable line.")]
Space = Annotated[str | None, typer.Option(help="output, cross or value.")]
Raw = Annotated[bool, typer.Option("--raw", help="No softmax over the concepts.")]
Layers = Annotated[str | None, typer.Option(help="Blocks to average, for example 3,4,5 or 2-5.")]
Preset = Annotated[str | None, typer.Option(help="paper: the settings of the official code; sharp: refined maps.")]
Noise = Annotated[float | None, typer.Option(help="Noise level, 0 (clean) to 1.")]
Samples = Annotated[int | None, typer.Option(help="Noise draws to average.")]
Batch = Annotated[int, typer.Option(min=1, help="Pictures that go through the model at once.")]
Isolate = Annotated[bool, typer.Option("--isolate", help="Concepts do not see each other.")]
Refine = Annotated[
    str | None, typer.Option(metavar="NAMES", help="Refinements, for example head-weights,joint-bilateral.")
]
Prompt = Annotated[str, typer.Option(help="What to tell the model about the image.")]
Device = Annotated[str | None, typer.Option(help="cuda, cpu, ...")]
Offload = Annotated[bool, typer.Option("--offload", help="Keep on the GPU only the part that runs.")]
SingleStream = Annotated[
    bool,
    typer.Option("--single-stream", help="Follow the single-stream blocks too; their layers count on. Experimental."),
]
Guide = Annotated[
    str | None,
    typer.Option(
        metavar="METHOD[:PRESET]",
        help="tsam, attend-and-excite, conform, syngen; tsam:paper-ae and so on. Settings: --set guide.alpha=20.",
    ),
]
Edges = Annotated[bool, typer.Option("--edges", help="Masks end at the edges of the picture.")]
Abstain = Annotated[float, typer.Option(help="Share of the pixels, the most doubtful, that belong to no concept.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other option.")]


def say(text: str) -> None:
    """Prints lines of results."""
    typer.echo(_printable_lines(text))


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def table(*headings: str, **options: Any) -> Table:
    """An empty table without a frame; `show` prints it."""
    from rich.table import Table

    return Table(*headings, title_justify="left", box=None, **options)


def show(shown: Table) -> None:
    """Prints a table of results."""
    _console(stderr=False).print(shown)


def console() -> Console:
    """Where notes, errors and progress go: the standard error."""
    return _console(stderr=True)


def note(text: str) -> None:
    """Prints a remark beside the results."""
    console().print(f"note: {text}", soft_wrap=True)


@cache
def _console(*, stderr: bool) -> Console:
    from rich.console import Console
    from rich.text import Text

    class Literally(Console):
        """Words of users and names of files are no markup, no emoji codes and no commands to the terminal."""

        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(_printable_lines(text), **options)

    return Literally(stderr=stderr, highlight=False, markup=False, emoji=False)


def recipe_options(
    space: str | None, raw: bool, layers: str | None, isolate: bool, refine: str | None = None
) -> dict[str, Any]:
    """Fields of `Recipe` that were set."""
    return given(
        space=space,
        softmax=False if raw else None,
        layers=None if layers is None else parse_layers(layers),
        isolate=isolate or None,
        refine=None if refine is None else tuple(name.strip() for name in refine.split(",")),
    )


def guidance_of(name: str | None, options: dict[str, Any]) -> Guidance | None:
    """The guidance that was asked for, or None; its settings, `guide.KEY`, are taken out of the options.

    Raises:
        RecipeError: for settings without a guidance, and as `guidance_named`.
    """
    changes = {key: options.pop(key) for key in list(options) if key.startswith("guide.")}
    if name is None:
        if changes:
            raise RecipeError(f"--set {next(iter(changes))} is of guidance, and there is no --guide. Add one.")
        return None
    from conceptlens.guidance import guidance_named

    plain = {key.removeprefix("guide."): value for key, value in changes.items()}
    for key in ("steps", "blocks"):
        if isinstance(plain.get(key), (int, str)):
            plain[key] = parse_layers(str(plain[key]))
    return guidance_named(name, plain)


def given(**options: Any) -> dict[str, Any]:
    """The options that were set on the command line; the others keep the library's defaults."""
    return {name: value for name, value in options.items() if value is not None}


def parse_layers(text: str) -> tuple[int, ...]:
    """Block numbers from text such as "3,4,5" or "2-5" or "-1".

    Raises:
        RecipeError: for anything else.
    """
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-") if not part.strip().startswith("-") else (part, "", "")
        try:
            start, stop = int(first), int(last) if dash else int(first)
        except ValueError as error:
            raise RecipeError(f"layers must look like 3,4,5 or 2-5; got {text!r:.60}.") from error
        if stop < start:
            raise RecipeError(f"layers go from the lower to the higher; got {part.strip()!r}. Write {stop}-{start}.")
        if stop - start > MOST_LAYERS:
            raise RecipeError(f"no model has {stop - start + 1} layers; got {part.strip()!r}.")
        numbers += range(start, stop + 1)
    return tuple(numbers)


def settings(pairs: list[str] | None) -> dict[str, Any]:
    """Options from `KEY=VALUE`; a value that is no JSON is text."""
    options = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise RecipeError(f"--set takes KEY=VALUE, for example guidance_scale=3.5; got {pair!r}.")
        try:
            options[key] = json.loads(value)
        except (ValueError, RecursionError):
            options[key] = value
    return options
