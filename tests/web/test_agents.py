"""The tools for agents: through a client of the protocol, and as a process."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcp import Client, StdioServerParameters
from PIL import Image

import conceptlens as cl
from conceptlens.bench.datasets.scenes import make_scene
from conceptlens.maps.exports import decode_rle
from conceptlens.session import Session
from conceptlens.web.agents import MOST_PICTURES, Pictures, create_server

WORDS = ["house", "sky"]


@pytest.fixture(scope="module")
def session() -> Session:
    return cl.load()


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    path = tmp_path / "scene.png"
    number = next(n for n in range(100) if {"house", "tree"} <= set(make_scene(n).concepts))
    Image.fromarray(make_scene(number).image).save(path)
    return path


def asked(server: Any, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
    async def talk() -> list[Any]:
        async with Client(server) as client:
            return [await client.call_tool(name, arguments) for name, arguments in calls]

    return asyncio.run(talk())


def test_an_agent_reads_once_and_asks_for_any_words(session: Session, scene: Path) -> None:
    read, probe, presence, places = asked(
        create_server(session),
        ("read", {"path": str(scene)}),
        ("probe", {"picture": "picture-1", "words": WORDS}),
        ("presence", {"picture": "picture-1", "words": [*WORDS, "boat"]}),
        ("places", {"picture": "picture-1", "words": ["house", "tree", "sky"]}),
    )
    assert (read.structured_content["picture"], read.structured_content["width"]) == ("picture-1", 64)
    maps = session.probe(session.read(scene), WORDS)
    text, picture = probe.content
    found = json.loads(text.text)["words"]
    assert np.array_equal(decode_rle(found["house"]["mask"]), maps.mask("house", "argmax"))
    assert found["sky"]["share"] == pytest.approx(maps.places()["sky"].area, abs=1e-4)
    overlay = Image.open(io.BytesIO(base64.b64decode(picture.data)))
    assert np.array_equal(np.asarray(overlay), np.asarray(maps.overlay()))
    chances = presence.structured_content
    assert chances["house"]["chance"] > 0.5 > chances["boat"]["chance"]
    assert chances["sky"]["chance"] is None
    assert set(places.structured_content["places"]) == {"house", "tree", "sky"}
    assert any(line.startswith("house ") for line in places.structured_content["relations"])


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("read", {"path": "missing.png"}, "no image at missing.png. Check the path."),
        ("probe", {"picture": "picture-7", "words": WORDS}, "no picture 'picture-7'. Read one first"),
        ("places", {"picture": "picture-1", "words": []}, "no concepts were given"),
        ("presence", {"picture": "picture-1", "words": ["house", "house"]}, "'house' was given twice"),
    ],
)
def test_what_a_tool_cannot_do_is_one_line(
    tool: str, arguments: dict[str, Any], says: str, session: Session, scene: Path
) -> None:
    _, answer = asked(create_server(session), ("read", {"path": str(scene)}), (tool, arguments))
    assert answer.is_error
    assert says in answer.content[0].text
    assert "\n" not in answer.content[0].text


def test_only_so_many_pictures_are_remembered(session: Session, scene: Path) -> None:
    pictures = Pictures(session)
    names = [pictures.read(str(scene))["picture"] for _ in range(MOST_PICTURES)]
    pictures.places(names[0], WORDS)
    pictures.read(str(scene))
    assert pictures.places(names[0], WORDS)
    with pytest.raises(ValueError, match=f"no picture '{names[1]}'"):
        pictures.places(names[1], WORDS)


@pytest.mark.slow
def test_the_command_serves_over_stdio(scene: Path) -> None:
    command = StdioServerParameters(command=sys.executable, args=["-m", "conceptlens.cli", "mcp"], env=dict(os.environ))
    (read,) = asked(command, ("read", {"path": str(scene)}))
    assert read.structured_content["model"] == "demo"
