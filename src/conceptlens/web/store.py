"""What is remembered for each browser tab, bounded; what is needed least is dropped first."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

from PIL import Image

from conceptlens.values.clips import Clip
from conceptlens.values.records import ImageRecord
from conceptlens.web.errors import RequestError
from conceptlens.web.limits import Limits


@dataclass(frozen=True)
class Picture:
    """A picture or a film that can be asked.

    Attributes:
        tab: the browser tab that brought it.
        record: what the model saw.
        how: one line on where the record comes from, for the reader.
        reading: what tells whether a word is in the picture (`presence.calibrated_reading`), where the model can.
        notes: warnings that came while it was painted or read.
        seed: with which it was painted; None where it was not.
    """

    tab: str
    record: ImageRecord
    how: str
    reading: ImageRecord | None = None
    notes: tuple[str, ...] = ()
    seed: int | None = None

    @property
    def clip(self) -> Clip | None:
        """The frames of a film; None of a picture."""
        return self.record.clip

    def frame(self, number: int | None) -> Image.Image:
        """The picture itself, or one frame of a film, the first when None.

        Raises:
            RequestError: 422 for a frame of a picture, or one that the film does not have.
        """
        self.check_frame(number)
        return self.record.image if self.clip is None or number is None else self.clip.frames[number]

    def check_frame(self, number: int | None) -> None:
        """Refuses the number of a frame that is not there. Raises as `frame`."""
        if number is None:
            return
        if self.clip is None:
            raise RequestError(422, "frame is of films, and this is a picture. Leave it out.")
        if number >= len(self.clip):
            count = len(self.clip)
            raise RequestError(422, f"no frame {number}: this film has {count}. Use 0 to {count - 1}.")

    @property
    def nbytes(self) -> int:
        """Size of the records in memory, and of the frames of a film."""
        sizes = {id(record): record.nbytes for record in (self.record, self.reading) if record is not None}
        return sum(sizes.values()) + (0 if self.clip is None else pixel_bytes(self.clip))


def pixel_bytes(picture: Image.Image | Clip) -> int:
    """Size of decoded pixels in memory: of a picture, or of all frames of a film."""
    frames = picture.frames if isinstance(picture, Clip) else (picture,)
    return sum(frame.width * frame.height * len(frame.getbands()) for frame in frames)


EXAMPLE = "example"
"""The name under which every tab can ask the example."""


def new_id() -> str:
    """A name that nobody can guess: 128 random bits."""
    return secrets.token_urlsafe(16)


class Store:
    """Tabs and their pictures. Every method may be called from any thread."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._lock = limits, threading.Lock()
        self._tabs: OrderedDict[str, bool] = OrderedDict()  # whether it was used; the one unused longest comes first
        self._pictures: OrderedDict[str, Picture] = OrderedDict()
        self.example: Picture | None = None

    def open_tab(self, busy: Collection[str] = ()) -> str:
        """Remembers a new tab; its secret name.

        Args:
            busy: tabs that are not forgotten for it.

        Raises:
            RequestError: 503 when all others are busy.
        """
        with self._lock:
            while len(self._tabs) >= self._limits.tabs:
                self._forget_one(busy)
            tab = new_id()
            self._tabs[tab] = False
            return tab

    def check_tab(self, tab: str | None) -> str:
        """The tab itself.

        Raises:
            RequestError: 401 for a tab that is not, or no more, remembered.
        """
        with self._lock:
            if tab is None or tab not in self._tabs:
                raise _forgotten()
            self._tabs[tab] = True
            self._tabs.move_to_end(tab)
            return tab

    def add(self, picture: Picture) -> str:
        """Keeps a picture; its name. Older ones make room. The example is of all tabs, and stays.

        Raises:
            RequestError: 401 when its tab has been forgotten meanwhile.
        """
        with self._lock:
            if picture is self.example:
                return EXAMPLE
            if picture.tab not in self._tabs:
                raise _forgotten()
            name = new_id()
            self._pictures[name] = picture
            while len(self._pictures) > 1 and self._full():
                self._pictures.popitem(last=False)
            return name

    def picture(self, tab: str, name: str) -> Picture:
        """A picture of this tab.

        Raises:
            RequestError: 404 when there is none of this name, or it was dropped.
        """
        with self._lock:
            if name == EXAMPLE and self.example is not None:
                return self.example
            picture = self._pictures.get(name)
            if picture is None or picture.tab != tab:
                raise RequestError(404, "this picture is no longer kept. Paint or drop it again.")
            self._pictures.move_to_end(name)
            return picture

    def counts(self) -> dict[str, int]:
        """How many tabs and pictures are held, and the bytes of their records."""
        with self._lock:
            return {"tabs": len(self._tabs), "pictures": len(self._pictures), "bytes": self._bytes()}

    def _forget_one(self, busy: Collection[str]) -> None:
        idle = [tab for tab in self._tabs if tab not in busy]
        if not idle:
            raise RequestError(503, f"{len(self._tabs)} pages are at work here. Try again later.")
        asked = {picture.tab for picture in self._pictures.values()}
        gone = min(
            idle, key=lambda tab: (tab in asked, self._tabs[tab])
        )  # the first of equals is the one unused longest
        del self._tabs[gone]
        for name in [name for name, picture in self._pictures.items() if picture.tab == gone]:
            del self._pictures[name]

    def _full(self) -> bool:
        return len(self._pictures) > self._limits.pictures or self._bytes() > self._limits.record_bytes

    def _bytes(self) -> int:
        return sum(picture.nbytes for picture in self._pictures.values())


def _forgotten() -> RequestError:
    return RequestError(401, "this page was opened too long ago. Reload it.")
