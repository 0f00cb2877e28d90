"""What the commands of `conceptlens bench` share: progress, interruption, the command to repeat."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from conceptlens.cli.options import console
from conceptlens.values.errors import RecipeError

Form = Annotated[str, typer.Option("--format", help="markdown, latex or csv.")]
Engine = Annotated[str, typer.Option(help="local, or ray (needs conceptlens[ray]).")]
Workers = Annotated[int, typer.Option(min=1, help="Processes of the ray engine.")]


def check_form(form: str) -> None:
    """Raises `RecipeError` for a form that tables cannot be rendered in."""
    if form not in ("markdown", "latex", "csv"):
        raise RecipeError(f"no format {form!r}. Known: markdown, latex, csv.")


def check_engine(engine: str) -> None:
    """Raises `RecipeError` for what runs are not made by."""
    if engine not in ("local", "ray"):
        raise RecipeError(f"no engine {engine!r}. Known: local, ray.")


@contextmanager
def resumable() -> Iterator[None]:
    """Says, when a run is interrupted, that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        console().print("stopped; finished rows are saved, and the same command resumes from there")
        raise typer.Exit(130) from None


def this_command() -> str:
    """What to type to repeat the command."""
    return f"conceptlens {shlex.join(sys.argv[1:])}"


class RowBar:
    """A progress bar with the running accuracy."""

    def __init__(self, title: str, quiet: bool) -> None:
        self._title, self._quiet = title, quiet

    def track(self, rows: Iterable[dict[str, Any]], total: int) -> Iterator[dict[str, Any]]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[score]}"),
        )  # fmt: skip
        with Progress(*columns, console=console(), disable=self._quiet, transient=True) as progress:
            task = progress.add_task(self._title, total=total, score="")
            values: list[float] = []
            for row in rows:
                values += [row["scores"]["iou"]] if row.get("scores", {}).get("iou") is not None else []
                score = f"mean IoU {sum(values) / len(values):.3f}" if values else ""
                progress.update(task, advance=1, score=score)
                yield row
