"""What a model sees in pictures, as tools for agents: a server of the Model Context Protocol (MCP) over stdio.

An agent reads a picture once and then asks it for any words. The server runs with the rights of whoever starts it and
opens the files that the agent names; it writes none. Needs the extra `conceptlens[mcp]`.
"""

from __future__ import annotations

import io
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from threading import Lock
from typing import TYPE_CHECKING, Any

from conceptlens.maps.exports import encode_rle
from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.maps.picture_files import open_image
from conceptlens.presence import calibrated_reading, presence
from conceptlens.session import Session
from conceptlens.values.errors import ConceptlensError
from conceptlens.values.records import ImageRecord

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

MOST_PICTURES = 8
"""Pictures that are remembered; reading another one forgets the one that was asked longest ago."""
INSTRUCTIONS = (
    "conceptlens shows where a diffusion transformer sees a concept. Call `read` with the path of a picture, then "
    "`probe`, `presence` and `places` with the name it returns and any words. Words in one call compete for the "
    "pixels, so name what is around a thing too. A map always names a winner: whether a word is in the picture at all "
    "is what `presence` says."
)


class AgentError(ConceptlensError, ValueError):
    """A tool was asked for what it cannot do."""


class Pictures:
    """Pictures that were read, by name, on one model; one is asked at a time."""

    def __init__(self, session: Session) -> None:
        session.require("read")
        self._session, self._records, self._lock, self._count = session, OrderedDict[str, ImageRecord](), Lock(), 0

    def read(self, path: str, prompt: str = "") -> dict[str, Any]:
        """Reads a picture file once, for any number of questions.

        Args:
            path: of a PNG, JPEG, WebP, AVIF or TIFF.
            prompt: what to tell the model about the picture; usually nothing.
        """
        with self._lock:
            record = self._session.read(open_image(path), prompt=prompt)
            self._count += 1
            name = f"picture-{self._count}"
            self._records[name] = record
            while len(self._records) > MOST_PICTURES:
                self._records.popitem(last=False)
        return {
            "picture": name,
            "width": record.image.width,
            "height": record.image.height,
            "model": self._session.model_id,
            "known_words": list(self._session.vocabulary or ()) or "any",
        }

    def probe(self, picture: str, words: list[str]) -> tuple[dict[str, Any], bytes]:
        """Where each word is: share of the picture, box and mask, and an overlay to look at.

        Args:
            picture: the name that `read` returned.
            words: they compete for the pixels.

        Returns:
            By word `share` (0..1), `box` (left, top, right, bottom in pixels), `peak` (the highest score) and `mask`
            (COCO's compressed run lengths); and the overlay as a PNG.
        """
        maps = self._maps(picture, words)
        masks = {name: maps.mask(name, "argmax" if len(maps.concepts) > 1 else "mean") for name in maps.asked}
        found = {
            name: {
                "share": round(place.area, 4),
                "box": place.box,
                "peak": round(float(maps[name].max()), 4),
                "mask": encode_rle(masks[name]),
            }
            for name, place in maps.places().items()
        }
        overlay = io.BytesIO()
        maps.overlay().save(overlay, "PNG")
        return {"words": found, "how": maps.describe()}, overlay.getvalue()

    def presence(self, picture: str, words: list[str]) -> dict[str, Any]:
        """How likely each word is to be in the picture at all, each judged on its own.

        Args:
            picture: the name that `read` returned.
            words: any.

        Returns:
            By word `chance`, 0..1, null for "cannot say", which is all that a model without a calibration says; and
            `score`, the log odds against other words.
        """
        with self._lock:
            record = self._record(picture)
            seen = calibrated_reading(self._session, record.image, record) or record
            found = presence(self._session, seen, words)
        return {one.concept: {"chance": one.chance, "score": round(one.score, 3)} for one in found}

    def places(self, picture: str, words: list[str]) -> dict[str, Any]:
        """Boxes and centres of the words, and how they stand to each other ("house left of tree").

        Args:
            picture: the name that `read` returned.
            words: they compete for the pixels.
        """
        maps = self._maps(picture, words)
        return {
            "places": {name: asdict(place) for name, place in maps.places().items()},
            "relations": [str(relation) for relation in maps.relations()],
        }

    def _maps(self, picture: str, words: list[str]) -> ConceptMaps:
        with self._lock:
            return self._session.probe(self._record(picture), words)

    def _record(self, picture: str) -> ImageRecord:
        if picture not in self._records:
            known = ", ".join(self._records) or "none"
            raise AgentError(f"no picture {picture!r}. Read one first; those that are remembered: {known}.")
        self._records.move_to_end(picture)
        return self._records[picture]


def create_server(session: Session) -> MCPServer:
    """A server with the four tools, on one model.

    Raises:
        AgentError: when the package of `conceptlens[mcp]` is missing.
        ModelError: for a model that cannot read pictures.
    """
    try:
        from mcp.server.mcpserver import Image, MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
    except ImportError as error:
        raise AgentError(f"the server needs {error.name}. Install it with: pip install 'conceptlens[mcp]'.") from error

    pictures = Pictures(session)
    server = MCPServer("conceptlens", instructions=INSTRUCTIONS)

    @contextmanager
    def told() -> Iterator[None]:
        """Errors of ours reach the agent as one line; all others are hidden from it."""
        try:
            yield
        except ConceptlensError as error:
            raise ToolError(str(error)) from error

    def tool(function: Callable[..., Any]) -> None:
        described = getattr(Pictures, function.__name__).__doc__
        server.tool(description=described, structured_output=function is not probe)(function)

    def read(path: str, prompt: str = "") -> dict[str, Any]:
        with told():
            return pictures.read(path, prompt)

    def probe(picture: str, words: list[str]) -> list[Any]:
        with told():
            found, overlay = pictures.probe(picture, words)
        return [json.dumps(found), Image(data=overlay, format="png")]

    def presence(picture: str, words: list[str]) -> dict[str, Any]:
        with told():
            return pictures.presence(picture, words)

    def places(picture: str, words: list[str]) -> dict[str, Any]:
        with told():
            return pictures.places(picture, words)

    for function in (read, probe, presence, places):
        tool(function)
    return server
