"""Takes pictures of the page for the documents, in a headless browser: ten states, on a screen and on a telephone.

PYTHONPATH=tests/web .venv/bin/python tests/web/take_picture.py out/pages
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import uvicorn
from PIL import Image
from shown import Shown
from webdriver import KEYS, Browser, driver

import conceptlens as cl
from conceptlens.bench.datasets.scenes import make_scene
from conceptlens.web import create_app
from conceptlens.web.server import bind

SIZES = {"screen": (1440, 1130), "phone": (390, 844)}


def top(page: Shown, name: str = "") -> None:
    page.browser.run("document.activeElement.blur()")
    if name:
        page.browser.run(f"document.getElementById('{name}').scrollIntoView()")
    else:
        page.browser.run("scrollTo(0, 0)")


def example(page: Shown) -> None:
    page.wait("document.getElementById('fitting').textContent", "ranked words")
    top(page)


def point(page: Shown) -> None:
    page.point(0.56, 0.75, touch=page.js("innerWidth") < 500)
    page.wait("document.querySelectorAll('#ranked li').length", "what fits")


def heat(page: Shown) -> None:
    page.browser.type("body", KEYS["escape"])
    page.press("#legend .name")
    top(page, "says")


def doubt(page: Shown) -> None:
    page.press("[data-view=doubt]")


def typed(page: Shown) -> None:
    page.press("[data-view=areas]")
    page.browser.type("#word", "tree")
    page.wait("document.querySelectorAll('#legend .draft .share').length", "the map of a half-typed word")


def refused(page: Shown) -> None:
    page.browser.run("const f = document.getElementById('word'); f.value = ''; f.dispatchEvent(new Event('input'))")
    page.add("dragon", "龘")
    page.wait("document.querySelector('#legend .refused .why')", "the reason")
    page.press("#legend li:nth-child(4) .drop")
    page.settle()
    page.browser.run("document.getElementById('sentence').scrollIntoView()")


def inside(page: Shown) -> None:
    page.press("#undo")
    for _ in range(2):
        page.press("#legend li:last-child .drop")
    page.settle()
    page.browser.run("document.getElementById('inside').open = true")
    page.wait("document.querySelectorAll('#strip .cell').length", "the small maps")
    page.press("#strip .cell[aria-label='layer 4, step 20']")
    page.wait("document.getElementById('alone').textContent", "one layer alone")
    page.settle()
    top(page, "inside")


def compared(page: Shown) -> None:
    page.press("#alone button")
    page.browser.run("document.getElementById('inside').open = false")
    page.settle()
    page.press("#pin")
    page.paint("a pink balloon above a house on sand", seed=18, steps=28)
    page.wait("document.getElementById('other').offsetParent !== null", "the compared picture")
    top(page, "says")


def guided(page: Shown) -> None:
    page.press("#pin")
    page.press("#guide-again")
    page.wait("document.getElementById('this-caption').textContent.includes('guided')", "the guided picture")
    page.settle()
    page.press("#legend .name")
    top(page, "says")


def gallery(page: Shown) -> None:
    page.press("#pin")
    scene = Path("out") / "scene.png"
    scene.parent.mkdir(exist_ok=True)
    Image.fromarray(make_scene(8).image).save(scene)
    page.browser.type("#file", str(scene.resolve()))
    page.wait(
        "document.getElementById('this-caption').textContent.includes('read at noise')", "a picture that was read"
    )
    page.wait("document.querySelectorAll('#legend .share').length", "words that fit")
    page.wait("document.querySelectorAll('#gallery .thumb').length === 4", "the pictures")
    page.browser.run("document.getElementById('gallery-box').scrollIntoView({block: 'end'})")


STATES: list[Callable[[Shown], None]] = [
    example, point, heat, doubt, typed, refused, inside, compared, guided, gallery,
]  # fmt: skip


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    listening = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(cl.load(device="cpu")), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        with driver() as address:
            for size, (width, height) in SIZES.items():
                browser = Browser(address, width, height)
                page = Shown(browser, f"http://127.0.0.1:{listening.getsockname()[1]}/").open()
                for number, state in enumerate(STATES):
                    state(page)
                    browser.run("document.documentElement.style.scrollbarWidth = 'none'")
                    picture = Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
                    picture.thumbnail((1200, 1200))
                    picture.save(folder / f"app-{number}-{state.__name__}-{size}.webp", quality=86, method=6)
                browser.close()
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
