"""Serving the page with uvicorn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp

from conceptlens.session import Session
from conceptlens.web.addresses import allowed_hosts, bind, in_url
from conceptlens.web.app import build
from conceptlens.web.connections import GRACE, PIECE, Connection
from conceptlens.web.limits import Limits

PATIENCE = 30.0
"""Seconds to wait for the server to start before its address is announced."""


def run(
    session: Session,
    host: str,
    port: int,
    limits: Limits,
    allow_hosts: Sequence[str],
    ready: Callable[[str], None],
) -> None:
    """See `conceptlens.web.serve`; `ready` is called with the page's URL once it can be opened."""
    hosts = allowed_hosts(host, allow_hosts)
    listening = bind(host, port)
    url = f"http://{in_url(host)}:{listening.getsockname()[1]}/"
    server = uvicorn.Server(configured(build(session, limits, hosts), limits))

    def announce() -> None:
        until = time.monotonic() + PATIENCE
        while not server.started and time.monotonic() < until:
            time.sleep(0.05)
        if server.started:
            ready(url)

    threading.Thread(target=announce, daemon=True).start()
    with listening, suppress(KeyboardInterrupt):
        server.run(sockets=[listening])


def configured(app: ASGIApp, limits: Limits) -> uvicorn.Config:
    """How uvicorn serves the page: within the limits, and gone a few seconds after it is told to stop."""
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_level="warning",
        access_log=False,
        h11_max_incomplete_event_size=PIECE,
        limit_concurrency=limits.connections,
        timeout_keep_alive=limits.patience,
        timeout_graceful_shutdown=int(2 * GRACE),
    )
