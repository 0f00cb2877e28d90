"""Serving the page with uvicorn."""

from __future__ import annotations

import socket
import threading
import time
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvicorn

from conceptlens.errors import one_line
from conceptlens.session import Session
from conceptlens.web.app import HERE, build
from conceptlens.web.errors import AppError
from conceptlens.web.limits import Limits

PATIENCE = 30.0
"""Seconds to wait for the server to start before its address is announced."""


def run(
    session: Session,
    host: str,
    port: int,
    open_browser: bool,
    limits: Limits,
    announce: Callable[[str], Any] | None,
) -> None:
    """See `conceptlens.web.serve`."""
    listening = bind(host, port)
    name = f"[{host}]" if ":" in host else host
    url = f"http://{name}:{listening.getsockname()[1]}/"
    hosts = HERE if name in HERE else ("*",)
    config = uvicorn.Config(build(session, limits, hosts), log_level="warning", access_log=False)
    server = uvicorn.Server(config)

    def tell() -> None:
        until = time.monotonic() + PATIENCE
        while not server.started and time.monotonic() < until:
            time.sleep(0.05)
        if server.started and announce is not None:
            announce(url)
        if server.started and open_browser:
            webbrowser.open(url)

    threading.Thread(target=tell, daemon=True).start()
    with listening, suppress(KeyboardInterrupt):
        server.run(sockets=[listening])


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at an address.

    Raises:
        AppError: when the address cannot be had.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, OverflowError) as error:
        raise AppError(f"cannot listen at {host}:{port}: {one_line(error)}. Choose another host or port.") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or one_line(error)
        raise AppError(f"cannot listen at {host}:{port}: {reason}. Choose another port; 0 is any free one.") from error
    return listening
