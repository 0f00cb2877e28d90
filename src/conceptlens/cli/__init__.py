"""The command line: `main` is the `conceptlens` command; each command is one function of the session."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from conceptlens._version import __version__


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
    if sys.argv[1:] == ["--version"]:
        print(f"conceptlens {__version__}")  # noqa: T201 - quicker than building the commands
        return
    import logging
    import os
    import warnings

    from conceptlens import CHATTY
    from conceptlens.cli.commands import app
    from conceptlens.cli.options import note

    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(logging.ERROR)
    warnings.showwarning = lambda message, *_, **__: note(str(message))
    with _plain_errors():
        app()
