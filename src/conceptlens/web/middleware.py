"""What holds for every request and every answer."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
HARMLESS = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""


class WithHeaders:
    """Puts `HEADERS` on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        await self._app(scope, receive, with_headers)


class OwnPagesOnly:
    """Turns away what a page of another site asks: it could not read the answer, but what it asks would be done."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and scope["method"] not in HARMLESS and foreign(Headers(scope=scope)):
            app = JSONResponse({"error": "this page is not for use by other pages. Open its own address."}, 403)
        await app(scope, receive, send)


def foreign(headers: Headers) -> bool:
    """Whether a browser says that another site's page asks. Programs say neither, and are not meant here."""
    sites, origins = headers.getlist("sec-fetch-site"), headers.getlist("origin")
    host = headers.get("host", "").lower()
    return any(site not in ("same-origin", "none") for site in sites) or any(
        origin.partition("://")[2].lower() != host for origin in origins
    )
