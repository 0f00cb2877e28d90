"""The page in a real browser: paint, type a word, point, on a screen and on a phone."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from webdriver import BROWSER, DRIVER, KEYS, Browser, driver

from conceptlens.session import Session
from conceptlens.web import AppError, Limits, create_app, serve

uvicorn = pytest.importorskip("uvicorn", reason="the page is served with conceptlens[web]")
needs_browser = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no chromium with chromedriver here; apt-get install chromium chromium-driver"
)


@pytest.fixture(scope="module")
def address(demo: Session) -> Iterator[str]:
    """The page, served; its URL."""
    from conceptlens.web.server import bind, configured

    listening, limits = bind("127.0.0.1", 0), Limits(recorded_steps=3)
    server = uvicorn.Server(configured(create_app(demo, limits=limits), limits))
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


@pytest.fixture(scope="module")
def browser_address() -> Iterator[str]:
    with driver() as found:
        yield found


def paint(browser: Browser, address: str, steps: int) -> None:
    browser.go(address)
    browser.wait(lambda: browser.run("return document.getElementById('prompt').value"), "the sample prompt")
    browser.run(f"document.getElementById('steps').value = {steps}; document.getElementById('seed').value = 17")
    browser.click("#go")
    browser.wait(lambda: browser.text("#how"), "a painted picture")
    browser.wait(lambda: "%" in browser.text("#legend"), "maps of the prompt's words")


@needs_browser
def test_paint_type_and_point(browser_address: str, address: str, demo: Session) -> None:
    browser = Browser(browser_address, 1200, 900)
    try:
        paint(browser, address, 6)
        assert "3 of 6 steps recorded" in browser.text("#how")
        assert browser.text("#legend").split()[0] == "house"
        before = browser.run("return document.getElementById('canvas').toDataURL()")
        browser.type("#word", "sky")
        browser.wait(lambda: "sky" in browser.text("#legend"), "the map of a half-typed word")
        browser.wait(
            lambda: browser.run("return document.getElementById('canvas').toDataURL()") != before, "another picture"
        )
        browser.type("#word", KEYS["enter"])
        browser.wait(
            lambda: browser.run("return document.querySelectorAll('#legend .draft').length === 0"), "a kept word"
        )
        box = browser.run("return document.getElementById('canvas').getBoundingClientRect().toJSON()")
        browser.wait(lambda: point(browser, box), "ranked words")
        assert browser.run("return document.querySelectorAll('#ranked li').length") == 6
        assert "row 9 of 16" in browser.text("#where")
        browser.run("document.getElementById('canvas').focus()")
        browser.type("#canvas", KEYS["down"])
        assert "row 10 of 16" in browser.text("#where")
        assert "row 10 of 16" in browser.run("return document.getElementById('spoken').textContent")
        browser.run("document.getElementById('inside').open = true")
        layers = demo.recipe().layers
        assert layers
        most = "return Number(document.getElementById('layer').max)"
        browser.wait(lambda: browser.run(most) == len(layers), "the layers")
        browser.run("const s = document.getElementById('layer'); s.value = 1; s.dispatchEvent(new Event('input'))")
        assert browser.text("#layer-told") == str(layers[0])
        assert browser.complaints() == []
    finally:
        browser.close()


@needs_browser
def test_a_double_click_paints_once(browser_address: str, address: str) -> None:
    browser = Browser(browser_address, 1200, 900)
    try:
        browser.go(address)
        browser.wait(lambda: browser.text("#model"), "the page")
        browser.run(
            "const form = document.getElementById('paint'); document.getElementById('steps').value = 2;"
            "form.requestSubmit(); form.requestSubmit()"
        )
        browser.wait(lambda: "%" in browser.text("#legend"), "maps of the prompt's words")
        assert browser.complaints() == []
        assert browser.run("return document.getElementById('error').textContent") == ""
    finally:
        browser.close()


@needs_browser
def test_a_downloaded_mask_is_the_librarys(browser_address: str, address: str, demo: Session, tmp_path: Path) -> None:
    browser = Browser(browser_address, 1200, 900, downloads=tmp_path)
    try:
        paint(browser, address, 6)
        browser.type("#word", "sky" + KEYS["enter"])
        browser.wait(lambda: browser.text("#legend").count("0.") == 4 * 2, "the map of a fourth word")
        prompt = browser.run("return document.getElementById('prompt').value")
        browser.click(".get[data-kind=masks]")
        got = browser.wait(lambda: [*tmp_path.glob("*.zip")], "the archive")[0]
        assert browser.complaints() == []
    finally:
        browser.close()
    words = ["house", "tree", "sun", "sky"]
    live = demo.generate(prompt, words, seed=17, num_inference_steps=6, steps=(1, 3, 5))
    with zipfile.ZipFile(got) as archive:
        for number, word in enumerate(words):
            mask = np.asarray(Image.open(archive.open(f"mask-{number}-{word}.png"))) > 0
            assert np.array_equal(mask, live.mask(word, "argmax")), word


@needs_browser
def test_two_pictures_side_by_side_and_what_is_doubtful(browser_address: str, address: str) -> None:
    shown = "return document.getElementById('canvas').toDataURL()"
    browser = Browser(browser_address, 1200, 900)
    try:
        paint(browser, address, 4)
        assert re.search(r"(yes|no) \([<>]? ?\d+%\)", browser.text("#legend"))
        areas = browser.run(shown)
        browser.click("[data-view=doubt]")
        assert browser.run(shown) != areas
        browser.click("[data-view=areas]")
        assert browser.run(shown) == areas
        browser.click("#pin")
        first = browser.text("#how")
        browser.run("document.getElementById('seed').value = 18")
        browser.click("#go")
        browser.wait(lambda: first in browser.text("#other"), "the kept picture beside the new one")
        browser.wait(lambda: browser.run("return document.getElementById('other-canvas').toDataURL()") == areas, "maps")
        assert browser.run(shown) != areas
        browser.type("#word", "sky" + KEYS["enter"])
        browser.wait(
            lambda: browser.run("return document.getElementById('other-canvas').toDataURL()") != areas,
            "the new word's map on both pictures",
        )
        browser.click("#pin")
        assert not browser.run("return document.getElementById('other').offsetParent")
        assert browser.complaints() == []
    finally:
        browser.close()


def point(browser: Browser, box: dict[str, float]) -> bool:
    browser.point(int(box["x"] + box["width"] / 2) + 1, int(box["y"] + box["height"] / 2) + 1)
    return bool(browser.text("#ranked"))


@needs_browser
def test_on_a_phone_nothing_sticks_out(browser_address: str, address: str) -> None:
    browser = Browser(browser_address, 390, 844)
    try:
        paint(browser, address, 2)
        wide, window = browser.run("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert wide <= window == 390
        small = browser.run(
            "return [...document.querySelectorAll('button, select, input:not([type=checkbox]):not([type=range])')]"
            ".filter(e => e.offsetParent && e.id !== 'file' && e.offsetHeight < 34).map(e => e.id || e.className)"
        )
        assert small == [], "controls too small for a finger"
        assert browser.complaints() == []
    finally:
        browser.close()


def test_the_served_page_is_the_page(address: str) -> None:
    with urllib.request.urlopen(address) as answer:
        assert answer.status == 200
        assert b"<title>conceptlens</title>" in answer.read()


def test_a_taken_address_is_one_clear_line(demo: Session, address: str) -> None:
    port = int(address.rsplit(":", 1)[1].strip("/"))
    with pytest.raises(AppError, match=rf"cannot listen at 127.0.0.1:{port}: .*Choose another port"):
        serve(demo, port=port, open_browser=False)
    with pytest.raises(AppError, match="cannot listen at no.such.host.invalid"):
        serve(demo, host="no.such.host.invalid", open_browser=False)


def test_served_from_a_script_until_it_is_interrupted() -> None:
    script = (
        "import conceptlens as cl; from conceptlens.web import serve\n"
        "serve(cl.load(device='cpu'), port=0, open_browser=False, announce=lambda url: print(url, flush=True))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        url = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        with urllib.request.urlopen(url) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=60)[1]
        assert process.returncode == 0
        assert "Traceback" not in told
    finally:
        process.kill()
        process.communicate()
