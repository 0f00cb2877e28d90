"""The page, served on this computer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from conceptlens.session import Session
from conceptlens.web import Limits


@contextmanager
def served(session: Session, limits: Limits) -> Iterator[str]:
    """The address of the page while it runs."""
    import uvicorn

    from conceptlens.web import create_app
    from conceptlens.web.server import bind, configured

    listening = bind("127.0.0.1", 0)
    server = uvicorn.Server(configured(create_app(session, limits=limits), limits))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    until = time.monotonic() + 30
    while not server.started and time.monotonic() < until:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
