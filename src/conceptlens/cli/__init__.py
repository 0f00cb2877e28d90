"""The command line: `main` is the `conceptlens` command; each command is one function of the session."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from conceptlens._version import __version__

WELCOME = f"""conceptlens {__version__}: see where a diffusion transformer sees a concept.

  conceptlens demo                                          a first picture with its maps, in out/demo
  conceptlens app                                           a page in your browser: paint, drop a picture, ask words
  conceptlens read photo.png -c "house, sky" --model MODEL  words in a picture of yours

conceptlens --help lists all commands. conceptlens --install-completion lets the Tab key finish them in your shell."""


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turns our own exceptions into one line and exit code 2."""
    from conceptlens.values.errors import ConceptlensError

    try:
        yield
    except ConceptlensError as error:
        from rich.text import Text

        from conceptlens.cli.options import console

        console().print(Text.assemble(("error: ", "red"), str(error)), soft_wrap=True)
        sys.exit(2)


def main() -> None:
    """Entry point of the `conceptlens` command."""
    quick = {(): WELCOME, ("--version",): f"conceptlens {__version__}"}
    if (answer := quick.get(tuple(sys.argv[1:]))) is not None and "_CONCEPTLENS_COMPLETE" not in os.environ:
        print(answer)  # noqa: T201 - quicker than building the commands
        return
    import logging
    import warnings

    from conceptlens import CHATTY
    from conceptlens.cli.commands import app
    from conceptlens.cli.options import note

    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(logging.ERROR)
    said: set[str] = set()

    def note_once(message: Warning | str, *_: object, **__: object) -> None:
        """A remark that painting and reading both make is made once."""
        if str(message) not in said:
            said.add(str(message))
            note(str(message))

    warnings.showwarning = note_once
    with _plain_errors():
        app()
