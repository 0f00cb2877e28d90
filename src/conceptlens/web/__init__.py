"""The page: paint or drop a picture, type any word, see where the model sees it.

`app` holds the routes, `worker` the threads that work for all tabs in turn, `store` what is remembered for each browser
tab, `jobs` painting and reading, `asking` what a request may say, `uploads` what is brought, `flight` what is
on its way, `wire` how maps travel, `addresses` where the page listens, `connections` its time limits, `static`
the page itself. Nothing here computes a map, and no text of a request ever becomes a path. Needs the extra
`conceptlens[web]`.
"""

from __future__ import annotations

import webbrowser
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from conceptlens.web.errors import AppError
from conceptlens.web.limits import Limits

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from conceptlens.session import Session

DEFAULT_PORT = 8321


def create_app(session: Session, *, limits: Limits | None = None, hosts: tuple[str, ...] | None = None) -> Starlette:
    """The page and its interface as an ASGI application, for any ASGI server.

    Args:
        session: an open `conceptlens.Session`. Only the application's one worker thread uses it; leave it alone.
        limits: sizes and counts that bound what the page holds and accepts.
        hosts: names under which the page may be asked for; those of this computer when None, any with ("*",).

    Raises:
        AppError: when the packages of `conceptlens[web]` are missing.
    """
    return _part("app").build(session, limits or Limits(), hosts)


def serve(  # noqa: PLR0913 - a public call: one keyword for each thing a server may vary
    session: Session,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    open_browser: bool = True,
    *,
    limits: Limits | None = None,
    announce: Callable[[str], Any] | None = None,
    allow_hosts: Sequence[str] = (),
) -> None:
    """Serves the page until it is interrupted.

    Args:
        session: an open `conceptlens.Session`.
        host: the address to listen at. The page has no passwords: anyone who can
            reach an address other than 127.0.0.1 can use the model.
        port: 0 for any free one.
        open_browser: show the page in the standard browser.
        limits: see `create_app`.
        announce: called with the page's URL once it can be opened.
        allow_hosts: names or addresses, besides those of this computer, under which the page may be asked for; ("*",)
            for any. Needed where other computers can reach `host`.

    Raises:
        AppError: when the packages of `conceptlens[web]` are missing, the address is not available, or other computers
            can reach it and `allow_hosts` is empty.
    """

    def ready(url: str) -> None:
        if announce is not None:
            announce(url)
        if open_browser:
            webbrowser.open(url)

    _part("server").run(session, host, port, limits or Limits(), allow_hosts, ready)


def _part(name: str) -> ModuleType:
    try:
        return import_module(f"conceptlens.web.{name}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise AppError(f"the page needs {error.name}. Install it with: pip install 'conceptlens[web]'.") from error


__all__ = ["DEFAULT_PORT", "AppError", "Limits", "create_app", "serve"]
