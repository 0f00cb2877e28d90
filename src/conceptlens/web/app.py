"""Routes: what the page asks, and what it is answered."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from conceptlens.session import Session
from conceptlens.values.errors import ConceptlensError
from conceptlens.values.example import EXAMPLES, suggested_prompt
from conceptlens.values.words import content_words
from conceptlens.web import answers, jobs
from conceptlens.web.addresses import HERE
from conceptlens.web.asking import QUESTION, Fields, json_of, question
from conceptlens.web.errors import RequestError, status_of
from conceptlens.web.flight import Answer, Room, attended, body_of
from conceptlens.web.limits import Limits
from conceptlens.web.middleware import OwnPagesOnly, WithHeaders
from conceptlens.web.store import Picture, Store, pixel_bytes
from conceptlens.web.uploads import opened
from conceptlens.web.wire import MEDIA_TYPE
from conceptlens.web.worker import Worker

log = logging.getLogger("conceptlens.web")
TAB = "x-conceptlens-tab"
SCRIPTS = (
    "app",
    "ask",
    "bring",
    "compare",
    "film",
    "gallery",
    "layers",
    "picture",
    "point",
    "server",
    "state",
    "view",
    "words",
)
STATIC = {
    "index.html": "text/html; charset=utf-8",
    "app.css": "text/css; charset=utf-8",
    **{f"{name}.js": "text/javascript; charset=utf-8" for name in SCRIPTS},
    "icon.svg": "image/svg+xml",
    "openapi.json": "application/json",
}
"""The page's files and their types; nothing else can be asked for."""
STRONGEST = 10.0
"""The most that guidance can be asked for, as a multiple of its usual strength."""


def build(session: Session, limits: Limits, hosts: tuple[str, ...] | None) -> Starlette:
    """The application; see `conceptlens.web.create_app`."""
    page = Page(session, limits)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        page.close()

    app = Starlette(
        routes=page.routes(),
        middleware=[
            Middleware(WithHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts or HERE), www_redirect=False),
            Middleware(OwnPagesOnly),
        ],
        exception_handlers={ConceptlensError: _refused, HTTPException: _refused_by_http, Exception: _failed},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # an address is right or unknown
    app.state.store, app.state.room = page.store, page.room
    return app


class Page:
    """The handlers and what they share."""

    def __init__(self, session: Session, limits: Limits) -> None:
        self.session, self.limits = session, limits
        self.store, self.room, self.worker = Store(limits), Room(limits), Worker(limits.waiting)
        # A small file may hold many pixels: one at a time bounds the memory.
        self.codec = Worker(limits.waiting, "conceptlens-pictures")
        self.jobs = jobs.Jobs(self.worker, self.store)
        folder = files("conceptlens") / "web" / "static"
        self.static = {name: (folder / name).read_bytes() for name in STATIC}
        self.example = EXAMPLES.get(session.model_id)
        known = session.reader.defaults
        self.suggested = self.example.prompt if self.example else suggested_prompt(known.vocabulary, known.background)
        room = session.reader.frame_room({})
        self.most_frames = None if room is None else room.largest
        self.brought = "a picture" if room is None else "a picture or film"

    def routes(self) -> list[Route]:
        """Every address of the page."""
        return [
            Route("/", self.static_file("index.html")),
            *(Route(f"/{name}", self.static_file(name)) for name in STATIC),
            Route("/api/tabs", self.open_tab, methods=["POST"]),
            Route("/api/example", self.paint_example, methods=["POST"]),
            Route("/api/paint", self.paint, methods=["POST"]),
            Route("/api/read", self.read, methods=["POST"]),
            Route("/api/jobs/{job}", self.job, methods=["GET", "DELETE"]),
            Route("/api/jobs/{job}/sketch", self.sketch),
            Route("/api/pictures/{picture}", self.picture),
            Route("/api/maps", self.maps, methods=["POST"]),
            Route("/api/ranking", self.ranking, methods=["POST"]),
            Route("/api/probe", self.probe, methods=["POST"]),
        ]

    def static_file(self, name: str) -> Callable[[Request], Response]:
        """A handler for one file of the page, which was read when the server started."""
        return lambda request: Response(self.static[name], media_type=STATIC[name])

    async def open_tab(self, request: Request) -> Response:
        with self.room.share() as share:
            await body_of(request, self.limits.body_bytes, "a request", share)
        tab, new = self._resumed(request), 200
        if tab is None:
            tab, new = self.store.open_tab(self.jobs.busy()), 201
        facts = answers.about(self.session, self.limits)
        return JSONResponse({"tab": tab, **facts, "sample": self.suggested, "example": self.example is not None}, new)

    def _resumed(self, request: Request) -> str | None:
        """The tab that a page had before it was loaded again; None for a new one, or one that is forgotten."""
        try:
            return self._tab(request)
        except RequestError:
            return None

    async def paint_example(self, request: Request) -> Response:
        """What the page shows first; painted once, for all tabs."""
        tab = self._tab(request)
        with self.room.share() as share:
            await body_of(request, self.limits.body_bytes, "a request", share)
        if self.example is None:
            raise RequestError(404, "there is no example of this model. Paint or drop a picture.")
        prompt, seed, words = self.example
        wish = jobs.Wish(prompt, seed)

        def once(job: jobs.Job) -> Picture:
            if self.store.example is None:
                self.store.example = jobs.paint(self.session, job, self.limits, wish)
            return self.store.example

        return JSONResponse({"job": self.jobs.start(tab, once), **_words_of(prompt), "words": list(words)}, 202)

    async def paint(self, request: Request) -> Response:
        tab = self._tab(request)
        fields = await self._fields(request, {"prompt", "seed", "steps", "frames", "guide", "strength", "wait"})
        prompt, wait = fields.text("prompt", self.limits.prompt), fields.switch("wait")
        seed, steps = fields.whole("seed", 0, 2**31 - 1), fields.whole("steps", 1, self.limits.steps)
        if not prompt.strip():
            raise RequestError(422, f"the prompt is empty. Say what to paint, for example: {self.suggested}.")
        drawn = secrets.randbelow(2**31) if seed is None else seed
        wish = jobs.Wish(prompt, drawn, steps, *self._guide(fields), self._frames(fields))
        name = self.jobs.start(tab, lambda job: jobs.paint(self.session, job, self.limits, wish))
        return await self._started(request, tab, name, prompt, wait)

    async def _started(self, request: Request, tab: str, name: str, prompt: str, wait: bool) -> Response:
        """What is said of a job that was begun: its name, or with `wait` its picture."""
        if not wait:
            return JSONResponse({"job": name, **_words_of(prompt)}, 202)
        try:
            await attended(request, self.jobs.end_of(tab, name))
        except RequestError:
            self.jobs.cancel(tab, name)
            raise
        status = self.jobs.tell(tab, name)
        if status["state"] != "done":
            raise RequestError(status.get("status", 409), status.get("error", "the picture was cancelled."))
        known = ("picture", "how", "seed", "notes", "frames", "rate")
        return JSONResponse({**_words_of(prompt), **{key: status[key] for key in known if key in status}})

    def _guide(self, fields: Fields) -> tuple[str | None, float]:
        """The name of the guidance, and its strength."""
        strength = fields.number("strength", 0.0, STRONGEST, 1.0)
        if fields.said.get("guide") is None:
            if "strength" in fields.said:
                raise RequestError(422, "strength is that of the guidance, and none is named. Give guide too.")
            return None, strength
        fitting = jobs.guides(self.session)
        if not fitting:
            raise RequestError(422, "this model cannot be painted with guidance. Leave guide out.")
        return fields.choice("guide", tuple(fitting)), strength

    def _frames(self, fields: Fields) -> int | None:
        """How many frames are painted."""
        frames = fields.whole("frames", 1, self.limits.frames)
        if frames is not None and not jobs.is_of_films(self.session):
            raise RequestError(422, "frames is of films, and this model paints pictures. Leave it out.")
        return frames

    async def read(self, request: Request) -> Response:
        """A picture or film as the body; in the query, what it shows (`prompt`), and whether to `wait`."""
        tab, query = self._tab(request), Fields(dict(request.query_params))
        prompt = query.text("prompt", self.limits.prompt, "")
        wait = query.choice("wait", ("true", "false"), "false") == "true"
        with self.room.share() as arriving:
            data = await body_of(request, self.limits.upload_bytes, self.brought, arriving)
            image = await attended(request, self.codec.run(lambda: opened(data, self.limits, self.most_frames), tab))
        waiting = self.room.share()
        waiting.grow(pixel_bytes(image))
        try:
            name = self.jobs.start(tab, lambda job: jobs.read(self.session, job, image, prompt), waiting.free)
        except RequestError:
            waiting.free()
            raise
        return await self._started(request, tab, name, prompt, wait)

    async def job(self, request: Request) -> Response:
        tab, name = self._tab(request), request.path_params["job"]
        if request.method == "DELETE":
            self.jobs.cancel(tab, name)
        return JSONResponse(self.jobs.tell(tab, name))

    async def sketch(self, request: Request) -> Response:
        tab = self._tab(request)
        sketch = self.jobs.sketch(tab, request.path_params["job"])
        return Answer(await attended(request, self.codec.run(lambda: answers.png(sketch), tab)), self.room, "image/png")

    async def picture(self, request: Request) -> Response:
        """A picture, or one frame of a film: the first, or that of the query."""
        picture = self.store.picture(self._tab(request), request.path_params["picture"])
        image = picture.frame(Fields(dict(request.query_params)).number_in_text("frame"))
        headers = {"x-conceptlens-bytes": str(picture.record.nbytes)}
        data = await attended(request, self.codec.run(lambda: answers.png(image), picture.tab))
        return Answer(data, self.room, "image/png", headers)

    async def maps(self, request: Request) -> Response:
        tab = self._tab(request)
        fields = await self._fields(request, QUESTION | {"parts"})
        asked, parts = question(fields, self.limits), fields.switch("parts")
        picture = self.store.picture(tab, asked.picture)
        work = self.worker.run(lambda: answers.answer(self.session, picture, asked, self.limits, parts=parts), tab)
        return Answer(await attended(request, work), self.room, MEDIA_TYPE)

    async def ranking(self, request: Request) -> Response:
        tab = self._tab(request)
        asked = question(await self._fields(request, QUESTION), self.limits, self.limits.words)
        picture = self.store.picture(tab, asked.picture)
        work = self.worker.run(lambda: answers.ranking(self.session, picture, asked), tab)
        return Answer(await attended(request, work), self.room, MEDIA_TYPE)

    async def probe(self, request: Request) -> Response:
        """Words in a picture, as one of `answers.FORMATS`."""
        tab = self._tab(request)
        fields = await self._fields(request, QUESTION | {"format"})
        asked = question(fields, self.limits)
        picture = self.store.picture(tab, asked.picture)
        formats = answers.formats_of(picture, asked)
        kind = fields.choice("format", tuple(formats), "json")
        work = self.worker.run(lambda: answers.in_format(self.session, picture, asked, kind), tab)
        media, name = formats[kind]
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Answer(await attended(request, work), self.room, media, headers)

    def _tab(self, request: Request) -> str:
        return self.store.check_tab(request.headers.get(TAB))

    async def _fields(self, request: Request, known: set[str]) -> Fields:
        with self.room.share() as share:
            return await json_of(request, self.limits, known, share)

    def close(self) -> None:
        """Drops what waits; what runs is ended before its next denoising step."""
        self.jobs.close()
        self.worker.close()
        self.codec.close()


def _words_of(prompt: str) -> dict[str, Any]:
    """A prompt, the words that are asked of its picture at first, and all that can be."""
    return {"prompt": prompt, "words": content_words(prompt), "chips": content_words(prompt, qualities=True)}


def _answer(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    more = {"retry-after": "2"} if status == 503 else {}
    sendable = text.encode("utf-8", "backslashreplace").decode()  # what was asked is quoted, and may be no valid text
    return JSONResponse({"error": sendable}, status, headers={**(headers or {}), **more})


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ConceptlensError)
    return _answer(status_of(error), str(error))


async def _refused_by_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: "there is nothing at this address.", 405: f"this address does not take {request.method}."}
    return _answer(error.status_code, said.get(error.status_code, str(error.detail)), error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    log.error("a request failed", exc_info=error)
    return _answer(500, jobs.FAILED)
