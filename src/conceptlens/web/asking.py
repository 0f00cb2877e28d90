"""What a request may say, checked: JSON of known fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from conceptlens.values.errors import one_line
from conceptlens.web.errors import RequestError
from conceptlens.web.flight import Share, body_of
from conceptlens.web.limits import Limits


async def json_of(request: Request, limits: Limits, known: set[str], share: Share) -> Fields:
    """The fields of a JSON request.

    Raises:
        RequestError: 415 for another type, 400 for damaged JSON, 422 for an unknown field, and those of `body_of`.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(415, f"this address takes application/json; got {kind or 'no type'}.")
    data = await body_of(request, limits.body_bytes, "a request", share)
    try:
        said = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the request is no JSON: {one_line(error)}.") from error
    if not isinstance(said, dict):
        raise RequestError(422, f"the request must be a JSON object; got {type(said).__name__}.")
    unknown = sorted(set(said) - known)
    if unknown:
        raise RequestError(422, f"no field {unknown[0][:40]!r}. Known: {', '.join(sorted(known))}.")
    return Fields(said)


@dataclass(frozen=True)
class Fields:
    """Typed access to the fields of a request; a wrong one is a `RequestError` with status 422."""

    said: Mapping[str, Any]

    def text(self, name: str, longest: int, default: str | None = None) -> str:
        value = self.said.get(name, default)
        if not isinstance(value, str):
            raise RequestError(422, f"{name} must be a text; got {_kind(value)}.")
        if len(value) > longest:
            raise RequestError(422, f"{name} has {len(value)} letters; {longest} are allowed. Shorten it.")
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise RequestError(422, f"{name} is no valid text. Type it again.")
        return value

    def whole(self, name: str, low: int, high: int) -> int | None:
        value = self.said.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise RequestError(422, f"{name} must be a whole number from {low} to {high}; got {str(value)[:40]}.")
        return value

    def number_in_text(self, name: str) -> int | None:
        """A whole number from 0, as the query of an address has it."""
        value = self.said.get(name)
        if value is not None and not (value.isascii() and value.isdecimal() and len(value) < 10):
            raise RequestError(422, f"{name} must be a whole number from 0; got {value[:40]}.")
        return None if value is None else int(value)

    def number(self, name: str, low: float, high: float, default: float) -> float:
        value = self.said.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise RequestError(422, f"{name} must be a number from {low:g} to {high:g}; got {str(value)[:40]}.")
        return float(value)

    def switch(self, name: str) -> bool:
        value = self.said.get(name, False)
        if not isinstance(value, bool):
            raise RequestError(422, f"{name} must be true or false; got {_kind(value)}.")
        return value

    def words(self, name: str, most: int, longest: int) -> list[str]:
        value = self.said.get(name)
        if not isinstance(value, list):
            raise RequestError(422, f"{name} must be a list of words; got {_kind(value)}.")
        if len(value) > most:
            raise RequestError(422, f"{name} has {len(value)} words; {most} are allowed. Drop some.")
        return [Fields({"a word": word}).text("a word", longest) for word in value]

    def choice(self, name: str, known: tuple[str, ...], default: str | None = None) -> str:
        value = self.text(name, 40, default)
        if value not in known:
            raise RequestError(422, f"{name} must be one of {', '.join(known)}; got {value!r}.")
        return value


@dataclass(frozen=True)
class Question:
    """What is asked about a picture.

    Attributes:
        picture: its name.
        concepts: words.
        options: of `Session.probe`.
        edges: whether masks follow the edges of the picture (`ConceptMaps.refined`).
        frame: of a film, the one that is asked about; None for all of them.
    """

    picture: str
    concepts: list[str]
    options: dict[str, Any] = field(default_factory=dict)
    edges: bool = False
    frame: int | None = None


QUESTION = {"picture", "concepts", "space", "isolate", "step", "layer", "edges", "frame"}


def question(fields: Fields, limits: Limits, most: int | None = None) -> Question:
    """A question from the fields of a request."""
    options: dict[str, Any] = {"space": fields.choice("space", ("output", "value"), "output")}
    if fields.switch("isolate"):
        options["isolate"] = True
    for name, setting in (("step", "steps"), ("layer", "layers")):
        number = fields.whole(name, 0, 9999)
        if number is not None:
            options[setting] = (number,)
    concepts = fields.words("concepts", most or limits.concepts, limits.word)
    frame = fields.whole("frame", 0, limits.frames - 1)
    return Question(fields.text("picture", 64), concepts, options, fields.switch("edges"), frame)


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__
