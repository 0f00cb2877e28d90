"""Takes pictures of the page for the documents, in a headless browser: ten states, on a screen and on a telephone.

PYTHONPATH=tests/web .venv/bin/python tests/web/take_picture.py out/pages
PYTHONPATH=tests/web .venv/bin/python tests/web/take_picture.py docs/images/app.webp      # a recording of its use
PYTHONPATH=tests/web .venv/bin/python tests/web/take_picture.py --film docs/images/app-film.webp   # with a film
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from serving import served
from shown import Shown
from webdriver import KEYS, Browser, driver

import conceptlens as cl
from conceptlens.bench.datasets.moving import make_film
from conceptlens.bench.datasets.scenes import SPLITS, make_scene
from conceptlens.maps.films import write_gif
from conceptlens.web import Limits

FILM = 5005
"""The number of the film that is shown; those of `bench films` come before it."""
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
    page.paint("a red balloon above a house in the snow", seed=5, steps=28)
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
    Image.fromarray(make_scene(7).image).save(scene)
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


def shot(browser: Browser) -> Image.Image:
    browser.run("document.documentElement.style.scrollbarWidth = 'none'")
    return Image.open(io.BytesIO(browser.screenshot())).convert("RGB")


def take(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with served(cl.load(device="cpu"), Limits()) as home, driver() as address:
        for size, (width, height) in SIZES.items():
            browser = Browser(address, width, height)
            page = Shown(browser, home).open()
            for number, state in enumerate(STATES):
                state(page)
                picture = shot(browser)
                picture.thumbnail((1200, 1200))
                picture.save(folder / f"app-{number}-{state.__name__}-{size}.webp", quality=86, method=6)
            browser.close()


def record(file: Path) -> None:
    """An animated picture: the finished example, a place pointed at, a word typed, another picture painted."""
    frames: list[tuple[Image.Image, int]] = []
    with served(cl.load(device="cpu"), Limits()) as home, driver() as address:
        browser = Browser(address, 1180, 1010)
        page = Shown(browser, home).open()

        def hold(milliseconds: int) -> None:
            frames.append((shot(browser), milliseconds))

        example(page)
        hold(2200)
        point(page)
        hold(1800)
        for letters in ("t", "tr", "tre"):
            browser.run(f"const f = document.getElementById('word'); f.value = '{letters}'; f.focus()")
            hold(220)
        browser.run("document.getElementById('word').value = ''")
        typed(page)
        hold(1800)
        browser.run("const f = document.getElementById('word'); f.value = ''; f.dispatchEvent(new Event('input'))")
        page.press("#legend .name")
        hold(1800)
        browser.run("document.activeElement.blur(); scrollTo(0, 0)")
        for name, value in (("prompt", "a green boat on the sea"), ("seed", 1)):
            page.fill(name, value)
        hold(900)
        page.press("#go")
        while len(frames) < 30 and not page.js("document.getElementById('busy').hidden"):
            hold(260)
            time.sleep(0.5)
        page.settle()
        page.add("sky")
        page.settle()
        top(page)
        hold(3000)
        browser.close()
    pictures = [picture.resize((885, 757), Image.Resampling.LANCZOS) for picture, _ in frames]
    durations = [milliseconds for _, milliseconds in frames]
    pictures[0].save(file, save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=70, method=6)


def take_film(file: Path) -> None:
    """A film of the test split that is read: a frame, its areas and the timeline of each word."""
    film = make_film(SPLITS["test"] + FILM)
    with (
        served(cl.load("zoo:film", device="cpu"), Limits()) as home,
        driver() as address,
        TemporaryDirectory() as folder,
    ):
        brought = Path(folder) / "film.gif"
        write_gif(film.clip.frames, brought)
        browser = Browser(address, 1180, 1010)
        browser.prefers("light")  # no motion: the film stands
        browser.go(home)
        page = Shown(browser, home)
        page.wait("document.getElementById('model').textContent.includes('zoo:film')", "the model")
        browser.type("#file", str(brought))
        page.wait("document.getElementById('this-caption').textContent.includes('read at noise')", "the film")
        page.drop_all()
        page.add(*film.concepts)
        page.settle()
        top(page)
        shot(browser).save(file, quality=86, method=6)
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("--film", action="store_true")
    args = parser.parse_args()
    make = take_film if args.film else record if args.target.suffix else take
    make(args.target)
