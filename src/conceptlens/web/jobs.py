"""Painting and reading: what takes long, with progress, and can be cancelled."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image
from torch import Tensor

from conceptlens.families.kinds.sketch import sketch_of
from conceptlens.guidance.checks import check_pipeline
from conceptlens.guidance.named import guidance_named
from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.maps.video_maps import VideoMaps
from conceptlens.presence import calibrated_reading
from conceptlens.readers.keeping import spread
from conceptlens.session import Session
from conceptlens.values.clips import Clip
from conceptlens.values.errors import BudgetError, ConceptlensError
from conceptlens.values.models import Pipeline
from conceptlens.values.records import ImageRecord
from conceptlens.values.words import content_words
from conceptlens.web.errors import RequestError, status_of
from conceptlens.web.limits import Limits
from conceptlens.web.store import Picture, Store, new_id
from conceptlens.web.worker import Worker, plainly, with_notes

log = logging.getLogger("conceptlens.web")
FAILED = "the model failed unexpectedly; the server's log says why."
LINE = "jobs"
"""They share one line at the worker, so that a word that is typed waits for one of them, however many there are."""
REMEMBERED = 512
"""Jobs whose outcome can still be asked for."""
SKETCHING = 0.15
"""Share of a painting's time that looking at it on its way may take."""
GUIDES = ("tsam:transformer", "tsam")
"""Guidance that needs nothing but the prompt."""


class Cancelled(Exception):  # noqa: N818 - a signal, not an error
    """Raised between two denoising steps of a job that is no longer wanted."""


@dataclass
class Job:
    """One painting or reading on its way. The worker's thread writes it, requests read it."""

    tab: str
    number: int = 0
    state: str = "waiting"
    step: int = 0
    steps: int = 0
    picture: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    sketch: Image.Image | None = None
    sketched: int = 0
    error: str | None = None
    status: int = 200
    stop: threading.Event = field(default_factory=threading.Event)
    future: Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether it may still bring a picture."""
        return self.state in ("waiting", "running")


class Jobs:
    """The jobs of all tabs. A tab has one at a time."""

    def __init__(self, worker: Worker, store: Store) -> None:
        self._worker, self._store, self._lock = worker, store, threading.Lock()
        self._jobs: dict[str, Job] = {}

    def start(self, tab: str, act: Callable[[Job], Picture], ended: Callable[[], None] = lambda: None) -> str:
        """Queues a job; its name.

        Args:
            tab: whose it is.
            act: what to do.
            ended: called once it is over, however it ended.

        Raises:
            RequestError: 409 when the tab has one already, 503 when the queue is full.
        """
        with self._lock:
            if any(job.tab == tab and job.busy for job in self._jobs.values()):
                raise RequestError(409, "this page is busy with another picture. Wait for it, or cancel it.")
            job, name = Job(tab), new_id()
            job.future, job.number = self._worker.submit(lambda: self._run(job, act), LINE)
            job.future.add_done_callback(lambda done: self._over(job, done))
            job.future.add_done_callback(lambda done: ended())
            self._jobs[name] = job
            over = [old for old, other in self._jobs.items() if not other.busy][: max(0, len(self._jobs) - REMEMBERED)]
            for old in over:
                del self._jobs[old]
            return name

    def busy(self) -> set[str]:
        """The tabs that have a job on its way."""
        with self._lock:
            return {job.tab for job in self._jobs.values() if job.busy}

    def close(self) -> None:
        """Ends all jobs before their next denoising step."""
        with self._lock:
            for job in self._jobs.values():
                job.stop.set()

    def tell(self, tab: str, name: str) -> dict[str, Any]:
        """How far a job is, as plain JSON values."""
        job = self._job(tab, name)
        status: dict[str, Any] = {"state": job.state, "step": job.step, "steps": job.steps}
        if job.state == "waiting":
            status["ahead"] = self._worker.ahead_of(job.number)
        if job.picture is not None:
            status |= {"picture": job.picture, **job.facts}
        elif job.sketch is not None:
            status["sketch"] = job.sketched
        if job.error is not None:
            status |= {"error": job.error, "status": job.status}
        return status

    async def end_of(self, tab: str, name: str) -> None:
        """Waits until a job is over, however it ends."""
        future = self._job(tab, name).future
        if future is not None:
            await asyncio.wait([asyncio.shield(asyncio.wrap_future(future))])

    def cancel(self, tab: str, name: str) -> None:
        """Ends a job before its next denoising step; one that waits never begins, one that cannot stop is not kept."""
        job = self._job(tab, name)
        job.stop.set()
        if job.future is not None and job.future.cancel():
            job.state = "cancelled"

    def sketch(self, tab: str, name: str) -> Image.Image:
        """How far a painting looks.

        Raises:
            RequestError: 404 where there is nothing to see yet, or no more.
        """
        sketch = self._job(tab, name).sketch
        if sketch is None:
            raise RequestError(404, "nothing of this picture can be seen yet. Wait for it.")
        return sketch

    def _job(self, tab: str, name: str) -> Job:
        with self._lock:
            job = self._jobs.get(name)
        if job is None or job.tab != tab:
            raise RequestError(404, "there is no such job. Paint or drop the picture again.")
        return job

    def _over(self, job: Job, done: Future[None]) -> None:
        # The worker turns a call away that it took before, in favour of a tab with fewer.
        if not done.cancelled() and isinstance(error := done.exception(), RequestError):
            job.error, job.status, job.state = str(error), error.status, "failed"

    def _run(self, job: Job, act: Callable[[Job], Picture]) -> None:
        try:
            if job.stop.is_set():
                raise Cancelled
            job.state = "running"
            picture = plainly(lambda: act(job))
            if job.stop.is_set():
                raise Cancelled
            name = self._store.add(picture)
            job.facts = facts_of(picture)
            job.picture, job.sketch = name, None
            job.state = "done"
        except Cancelled:
            job.state = "cancelled"
        except ConceptlensError as error:
            job.error, job.status, job.state = str(error), status_of(error), "failed"
        except Exception:
            log.exception("a job failed")
            job.error, job.status, job.state = FAILED, 500, "failed"


def facts_of(picture: Picture) -> dict[str, Any]:
    """What is told of a picture that is there, as plain JSON values; of a film also its frames and their rate."""
    film = {} if picture.clip is None else {"frames": len(picture.clip), "rate": picture.clip.rate}
    return {"how": picture.how, "seed": picture.seed, "notes": list(picture.notes), **film}


@dataclass(frozen=True)
class Wish:
    """What to paint.

    Attributes:
        prompt: a text.
        seed: of the starting noise.
        steps: None for the model's usual number.
        guide: a name of `guides`; None for the plain picture.
        strength: of the guidance, as a multiple of its usual step size.
        frames: of a film; None for the model's usual number, and for a picture.
    """

    prompt: str
    seed: int
    steps: int | None = None
    guide: str | None = None
    strength: float = 1.0
    frames: int | None = None

    @property
    def manner(self) -> str:
        """How it is painted, as the page tells it."""
        if self.guide is None:
            return "painted"
        times = "" if self.strength == 1 else f", {self.strength:g} times its usual strength"
        return f"painted with guidance ({self.guide}{times}) and"


def paint(session: Session, job: Job, limits: Limits, wish: Wish) -> Picture:
    """Paints a prompt and records evenly spread steps of it; reads the picture back where not one of them fits."""
    count = wish.steps or default_steps(session)
    wanted = min(count, limits.recorded_steps)
    while wanted:
        try:
            steps_of_record = spread(wanted, range(count))
            recording = {"record": True, "record_budget": limits.picture_bytes, "steps": steps_of_record}
            maps, notes = _painted(session, job, wish, count, recording)
            assert maps.record is not None
            how = f"{wish.manner} with seed {wish.seed}; {wanted} of {count} steps recorded"
            return Picture(job.tab, maps.record, how, _reading(session, maps.record), tuple(notes), wish.seed)
        except BudgetError as error:
            wanted = min(error.fitting, wanted - 1)
    maps, notes = _painted(session, job, wish, count, {})
    record = session.read(maps.clip if isinstance(maps, VideoMaps) else maps.image, prompt=wish.prompt)
    how = f"{wish.manner} with seed {wish.seed}, then read back like any picture: its steps are too large to record"
    return Picture(job.tab, record, how, _reading(session, record), tuple(notes), wish.seed)


def _painted(
    session: Session, job: Job, wish: Wish, count: int, recording: Mapping[str, Any]
) -> tuple[ConceptMaps | VideoMaps, list[str]]:
    """`Session.generate` with progress, and its warnings; cancelling ends it between two steps."""
    look = Sketches(session, job)

    def after_step(pipeline: Pipeline, step: int, timestep: object, tensors: dict[str, Any]) -> dict[str, Any]:
        look.after(step, tensors.get("latents"))
        job.step, job.steps = step + 1, pipeline.num_timesteps
        if job.stop.is_set():
            raise Cancelled
        return tensors

    options: dict[str, Any] = {"num_inference_steps": count, "seed": wish.seed, "background": False, **recording}
    if wish.frames is not None:
        options["num_frames"] = wish.frames
    if wish.guide is not None:
        usual = guidance_named(wish.guide)
        options["guide"] = replace(usual, alpha=usual.alpha * wish.strength)
    if "callback_on_step_end" in inspect.signature(session.pipeline.__call__).parameters:
        options["callback_on_step_end"] = after_step
    job.step, job.steps = 0, count
    # The maps of this run are thrown away, the record is asked instead; one word is the least that can be asked.
    words = content_words(wish.prompt)[:1] or ["picture"]
    try:
        return with_notes(lambda: session.generate(wish.prompt, words, **options))
    except Cancelled:
        session.pipeline.maybe_free_model_hooks()
        raise


class Sketches:
    """What a painting looks like on its way, shown as often as a small share of its time allows."""

    def __init__(self, session: Session, job: Job) -> None:
        self._session, self._job = session, job
        self._begun, self._spent, self._able = time.monotonic(), 0.0, True

    def after(self, step: int, latents: Tensor | None) -> None:
        """Looks at the latents behind a step, where it costs little."""
        began = time.monotonic()
        if latents is None or not self._able or self._spent > SKETCHING * (began - self._begun):
            return
        sketch = sketch_of(self._session.pipeline, latents)
        self._able = sketch is not None
        if sketch is not None:
            self._job.sketch, self._job.sketched = sketch, step + 1
        self._spent += time.monotonic() - began


def guides(session: Session) -> list[str]:
    """Names of the guidance that the model can be painted with."""
    fitting = []
    for name in GUIDES:
        try:
            check_pipeline(session.pipeline, guidance_named(name))
        except ConceptlensError:
            continue
        fitting.append(name)
    return fitting


def read(session: Session, job: Job, image: Image.Image | Clip, prompt: str) -> Picture:
    """Reads a picture or a film that exists."""
    record, notes = with_notes(lambda: session.read(image, prompt=prompt))
    how = f"read at noise {record.recipe.noise:g}"
    if record.clip is not None and record.clip.numbers[-1] >= len(record.clip):
        how = f"{len(record.clip)} frames, evenly spread from 0 to {record.clip.numbers[-1]}, {how}"
    return Picture(job.tab, record, how, _reading(session, record), tuple(notes))


def _reading(session: Session, record: ImageRecord) -> ImageRecord | None:
    """What tells whether a word is in a picture. A calibration is measured on pictures, so of a film there is none."""
    return None if record.clip is not None else calibrated_reading(session, record.image, record)


def is_of_films(session: Session) -> bool:
    """Whether a model paints films, or reads them."""
    return "num_frames" in inspect.signature(session.pipeline.__call__).parameters


def default_steps(session: Session) -> int:
    """The denoising steps of a painting by default."""
    given = inspect.signature(session.pipeline.__call__).parameters.get("num_inference_steps")
    usual = given.default if given is not None and isinstance(given.default, int) else 28
    return session.generate_defaults.get("num_inference_steps", usual)
