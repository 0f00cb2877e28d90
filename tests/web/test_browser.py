"""The page in a real browser: paint, type a word, point, compare, on a screen and on a phone."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shown import Shown
from webdriver import KEYS, Browser

from conceptlens.session import Session
from conceptlens.values.example import EXAMPLES
from conceptlens.web import AppError, serve

pytest.importorskip("uvicorn", reason="the page is served with conceptlens[web]")


def test_it_opens_with_a_finished_example_and_an_invitation(page: Shown) -> None:
    prompt, _, words = EXAMPLES["demo"]
    assert page.words() == list(words)
    assert page.browser.text("#sentence").replace("\n", " ") == prompt
    pressed = page.js("[...document.querySelectorAll('#sentence .chip[aria-pressed=true]')].map(e => e.textContent)")
    assert pressed == ["balloon", "house", "snow"]
    assert "Each colour is where the model sees that word" in page.browser.text("#says")
    assert "type one of your own" in page.browser.text("#says")
    page.wait("document.getElementById('fitting').textContent", "ranked words")
    others = "[...document.querySelectorAll('#fitting .chip')].map(e => e.textContent)"
    assert page.js(others) == ["sky"], "what is there and not in the prompt; sea and mountain are not there"
    page.press("#sentence .chip[data-word=yellow]")
    page.settle()
    assert page.words()[-1] == "yellow"


def test_paint_type_and_point(page: Shown, demo: Session) -> None:
    page.paint(steps=6)
    assert "3 of 6 steps recorded" in page.browser.text("#this-caption")
    assert page.words() == ["house", "tree", "sun"]
    before = page.canvas()
    page.browser.type("#word", "sky")
    page.wait("document.querySelectorAll('#legend .draft .share').length", "the map of a half-typed word")
    assert page.canvas() != before
    page.browser.type("#word", KEYS["enter"])
    page.wait("document.querySelectorAll('#legend .draft').length === 0", "a word that stays")
    page.wait("document.getElementById('fitting').textContent", "ranked words")
    page.point(0.51, 0.51)
    assert page.wait("document.querySelectorAll('#ranked li').length", "ranked words") == 6
    assert "row 9 of 16" in page.browser.text("#where")
    best = page.js("document.querySelector('#ranked li').textContent")
    assert page.js("document.querySelector('#bubble').textContent").startswith(best)
    page.browser.run("document.getElementById('canvas').focus()")
    page.browser.type("#canvas", KEYS["down"])
    assert "row 10 of 16" in page.browser.text("#where")
    assert "row 10, column" in page.js("document.getElementById('spoken').textContent")


def test_a_double_click_paints_once(page: Shown) -> None:
    page.fill("steps", 2)
    page.browser.run("const form = document.getElementById('paint'); form.requestSubmit(); form.requestSubmit()")
    page.wait("document.getElementById('this-caption').textContent.includes('2 of 2 steps')", "a picture")
    page.settle()
    assert page.js("document.getElementById('error').textContent") == ""


def test_a_downloaded_mask_is_the_librarys(browser_address: str, address: str, demo: Session, tmp_path: Path) -> None:
    page = Shown(Browser(browser_address, 1200, 900, downloads=tmp_path), address)
    try:
        page.open().paint(steps=6)
        page.add("sky")
        page.settle()
        prompt = page.js("document.getElementById('prompt').value")
        page.press(".get[data-kind=masks]")
        got = page.browser.wait(lambda: [*tmp_path.glob("*.zip")], "the archive")[0]
    finally:
        page.browser.close()
    words = ["house", "tree", "sun", "sky"]
    live = demo.generate(prompt, words, seed=17, num_inference_steps=6, steps=(1, 3, 5)).refined(edges=True)
    with zipfile.ZipFile(got) as archive:
        for number, word in enumerate(words):
            mask = np.asarray(Image.open(archive.open(f"mask-{number}-{word}.png"))) > 0
            assert np.array_equal(mask, live.mask(word, "argmax")), word


def test_two_seeds_side_by_side_with_the_difference_of_their_maps(page: Shown, demo: Session) -> None:
    page.paint(seed=17)
    page.press("#pin")
    page.paint(seed=18)
    page.wait("document.getElementById('other').offsetParent !== null", "the compared picture")
    page.wait("document.querySelector('#signed-scale .end').textContent", "the difference")
    assert "seed 17" in page.browser.text("#other figcaption")
    assert "seed 18" in page.browser.text("#this-caption")
    words, options = ["house", "tree", "sun"], {"num_inference_steps": 4, "steps": (1, 2, 3), "record": False}
    here, there = (
        demo.generate(page.js("document.getElementById('prompt').value"), words, seed=seed, **options)
        for seed in (18, 17)
    )

    def difference(word: str) -> str:
        return f"−{float((here[word] - there[word]).abs().max()):.2f} more beside"

    scale = "document.querySelector('#signed-scale .end').textContent"
    page.wait(f"{scale} === '{difference('house')}'", "the difference of the houses")
    page.browser.run(
        "const s = document.getElementById('signed-word'); s.value = 'sun'; s.dispatchEvent(new Event('change'))"
    )
    page.wait(f"{scale} === '{difference('sun')}'", "the difference of the suns")
    before = page.canvas("other-canvas")
    page.add("sky")
    page.browser.wait(lambda: page.canvas("other-canvas") != before, "the new word on both pictures")
    page.press("#pin")
    assert not page.js("document.getElementById('other').offsetParent")


def test_the_same_prompt_plain_and_guided(page: Shown) -> None:
    page.paint(seed=17)
    page.press("#guide-again")
    page.wait("document.getElementById('this-caption').textContent.includes('guided')", "the guided picture")
    assert "seed 17" in page.browser.text("#this-caption")
    assert "seed 17" in page.browser.text("#other figcaption")
    assert "guided" not in page.browser.text("#other figcaption")
    assert page.canvas() != page.canvas("other-canvas")
    usual = page.canvas()
    page.browser.run("document.getElementById('strength').value = 4")
    page.press("#guide-again")
    page.wait("document.getElementById('this-caption').textContent.includes('guided ×4')", "a stronger guidance")
    page.settle()
    assert "guided" in page.browser.text("#other figcaption")
    assert page.canvas() != usual


ANOTHER_MODEL = """
    const open = indexedDB.open("conceptlens", 1);
    open.onsuccess = () => {
        const change = open.result.transaction("pictures", "readwrite"), store = change.objectStore("pictures");
        change.oncomplete = () => { window.stored = true; };
        store.getAll().onsuccess = event => {
            const entry = {...event.target.result[0], model: "another", id: 1};
            entry.answer.arrays.scores.values = entry.answer.arrays.scores.values.map(v => v / 2);
            store.put(entry);
        };
    };
"""


def test_two_models_side_by_side(page: Shown) -> None:
    page.wait("document.querySelectorAll('#gallery .thumb').length", "the example among the pictures")
    page.browser.run(ANOTHER_MODEL)
    page.wait("window.stored", "a picture that another model saw")
    page.open()
    page.wait("document.querySelectorAll('#gallery .thumb').length === 2", "both pictures")
    page.press("#gallery li:nth-child(2) .compare")
    page.wait("document.getElementById('other').offsetParent !== null", "the compared picture")
    assert "seen by another" in page.browser.text("#other figcaption")
    page.press("[data-view=heat]")
    ends = page.js("document.querySelector('#scale .end:last-child').textContent")
    half = float(ends.split()[0]) / 2
    assert abs(float(page.browser.text("#signed-scale .end:last-child").split()[0]) - half) < 0.011
    page.press("#gallery li:nth-child(2) .thumb")
    page.add("tree")
    assert "no map of tree" in page.wait("document.getElementById('error').textContent", "what cannot be asked")
    assert page.shares()["balloon"].endswith("%")


def test_a_picture_of_ones_own_comes_with_words(page: Shown, tmp_path: Path) -> None:
    from conceptlens.bench.datasets.scenes import make_scene

    scene = make_scene(8)
    Image.fromarray(scene.image).save(tmp_path / "scene.png")
    page.browser.type("#file", str(tmp_path / "scene.png"))
    page.wait(
        "document.getElementById('this-caption').textContent.includes('read at noise')", "a picture that was read"
    )
    page.wait("document.querySelectorAll('#legend .share').length > 1", "words that fit")
    assert set(page.words()) & set(scene.concepts)


@pytest.mark.parametrize("view", ["heat", "doubt"])
def test_colours_have_a_scale(page: Shown, view: str) -> None:
    areas = page.canvas()
    page.press(f"[data-view={view}]")
    assert page.canvas() != areas
    ends = page.js("[...document.querySelectorAll('#scale .end')].map(e => e.textContent)")
    if view == "doubt":
        assert ends == ["0 sure", "0.5 a tie"]
    else:
        assert re.fullmatch(r"0(\.\d\d)? lowest in this picture", ends[0])
        assert re.fullmatch(r"0\.\d\d highest", ends[1])
        assert "How well “balloon” fits at each place" in page.browser.text("#says")
    page.press("[data-view=areas]")
    assert page.canvas() == areas


def test_the_small_maps_by_keyboard(page: Shown, demo: Session) -> None:
    layers = demo.recipe().layers
    assert layers
    page.browser.run("document.getElementById('inside').open = true")
    cells = page.wait("document.querySelectorAll('#strip .cell').length", "the small maps")
    assert cells == (len(layers) + 1) * (3 + 1)
    page.browser.run("document.querySelector('#strip .cell').focus()")
    page.browser.type("#strip .cell", KEYS["down"])
    assert page.js("document.activeElement.getAttribute('aria-label')") == f"layer {layers[0]}, mean of the steps"
    page.browser.type("#strip .cell[tabindex='0']", KEYS["enter"])
    page.settle()
    assert page.browser.text("#alone").startswith(f"Only layer {layers[0]}.")
    assert page.js("document.activeElement.getAttribute('aria-pressed')") == "true"


def test_on_a_phone_nothing_sticks_out(phone: Shown) -> None:
    for _ in ("closed", "open"):
        wide, window = phone.js("[document.documentElement.scrollWidth, window.innerWidth]")
        assert wide <= window == 390
        small = phone.js(
            "[...document.querySelectorAll('button:not(.cell), select, input:not([type=checkbox]):not([type=range])')]"
            ".filter(e => e.offsetParent && e.id !== 'file' && e.offsetHeight < 33).map(e => e.id || e.className)"
        )
        assert small == [], "controls too small for a finger"
        phone.browser.run("for (const each of document.querySelectorAll('details')) each.open = true")
        phone.wait("document.querySelectorAll('#strip .cell').length", "the small maps")


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
