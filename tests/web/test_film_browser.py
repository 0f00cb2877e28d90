"""A film on the page, in a real browser: it plays, is stepped through, asked, pointed at, and survives a reload."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from films import FRAMES, clip, gif, video_session
from shown import Shown
from test_accessible import AXE, CONTRAST, NAMELESS
from webdriver import KEYS, Browser

from conceptlens.session import Session

pytest.importorskip("uvicorn", reason="the page is served with conceptlens[web]")
WORDS = ["house", "tree", "sky"]


@pytest.fixture(scope="module")
def session() -> Session:
    return video_session()


@pytest.fixture(scope="module")
def address(session: Session) -> Iterator[str]:
    from serving import served

    from conceptlens.web import Limits

    with served(session, Limits(recorded_steps=2)) as home:
        yield home


@pytest.fixture
def blank(browser_address: str, address: str) -> Iterator[Shown]:
    """The page before anything was brought, for a reader who prefers no motion."""
    browser = Browser(browser_address, 1440, 1000)
    page = Shown(browser, address)
    try:
        browser.prefers("light")
        browser.go(address)
        page.wait("document.getElementById('model').textContent.includes('CogVideoX')", "the model")
        yield page
        assert browser.complaints() == []
    finally:
        browser.close()


@pytest.fixture
def film(blank: Shown, tmp_path: Path) -> Shown:
    """With a film that was brought, and three words."""
    (tmp_path / "film.gif").write_bytes(gif(clip().frames))
    blank.browser.type("#file", str(tmp_path / "film.gif"))
    blank.wait("document.getElementById('this-caption').textContent.includes('read at noise')", "the film")
    blank.add(*WORDS)
    blank.settle()
    return blank


def when(page: Shown) -> str:
    return page.js("document.getElementById('when').textContent")


def test_it_stands_for_who_prefers_no_motion_and_plays_for_others(film: Shown, tmp_path: Path) -> None:
    assert (film.js("document.getElementById('play').textContent"), when(film)) == ("Play", "frame 1 of 9, 0.00 s")
    film.browser.run("document.activeElement.blur()")
    film.browser.press_key(" ")
    film.wait("document.getElementById('play').textContent === 'Pause'", "a film that plays")
    film.wait("document.getElementById('frame').valueAsNumber > 1", "another frame")
    film.browser.press_key(" ")
    assert film.js("document.getElementById('play').textContent") == "Play"
    before = when(film)
    film.browser.press_key(KEYS["right"])
    assert when(film) != before
    film.browser.prefers("light", motion="no-preference")
    film.browser.type("#file", str(tmp_path / "film.gif"))
    film.wait("document.getElementById('play').textContent === 'Pause'", "a film that plays by itself")


def test_a_frame_shows_its_own_areas_and_what_fits(film: Shown, session: Session) -> None:
    maps: Any = session.probe(session.read(clip()), WORDS)
    share = maps.timeline().share
    told = film.shares()
    assert [told[word] for word in WORDS] == [f"{round(100 * s)}%" for s in share.mean(1).tolist()]
    areas = film.canvas()
    film.browser.run("const f = document.getElementById('frame'); f.value = 6; f.dispatchEvent(new Event('input'))")
    assert when(film) == "frame 7 of 9, 0.60 s"
    assert film.canvas() != areas
    film.wait("document.getElementById('fitting').textContent", "ranked words")
    words = film.js("document.getElementById('words').value").split(", ")
    ranked: Any = session.probe(session.read(clip()), words)
    best = ranked.scores.argmax(0)
    row, col = (best[0] != best[2]).nonzero()[0].tolist()  # another word than in the first frame
    film.point((col + 0.5) / 3, (row + 0.5) / 2)
    assert f"Column {col + 1} of 3, row {row + 1} of 2 in frame 7" in film.browser.text("#where")
    assert (
        film.js("document.querySelector('#ranked li .fit span:nth-child(2)').textContent") == words[best[2, row, col]]
    )
    film.browser.run("document.activeElement.blur()")
    film.browser.press_key(KEYS["right"])
    assert "in frame 8" in film.browser.text("#where")


def test_the_strip_tells_when_a_word_is_there_and_jumps(film: Shown, session: Session) -> None:
    maps: Any = session.probe(session.read(clip()), WORDS)
    share = maps.timeline().share
    labels = film.js("[...document.querySelectorAll('#rows canvas')].map(e => e.getAttribute('aria-label'))")
    for word, label, row in zip(WORDS, labels, share, strict=False):
        assert label.startswith(f"{word}: its share is largest in frame {row.argmax() + 1}, {round(100 * row.max())}%")
    film.browser.run("document.getElementById('timeline').scrollIntoView({block: 'center'})")
    box = film.js("document.querySelector('#rows canvas').getBoundingClientRect().toJSON()")
    at = {"clientX": box["x"] + box["width"] * 4.5 / FRAMES, "clientY": box["y"] + 5, "bubbles": True}
    film.browser.run(
        "document.querySelector('#rows canvas').dispatchEvent(new PointerEvent('pointerdown', arguments[0]))", at
    )
    assert when(film).startswith("frame 5 of 9")
    film.press("#legend li:last-child .drop")
    film.settle()
    assert film.js("document.querySelectorAll('#rows canvas').length") == 2


def test_a_film_survives_a_reload_and_stands_beside_another(film: Shown) -> None:
    film.browser.run("document.getElementById('prompt').value = 'a house and a tree'")
    film.fill("steps", 2)
    film.press("#pin")
    film.press("#go")
    film.wait("document.getElementById('this-caption').textContent.includes('seed')", "a painted film")
    film.wait("document.getElementById('other').offsetParent !== null", "the compared film")
    film.settle()
    beside = film.canvas("other-canvas")
    film.browser.run("document.activeElement.blur()")
    film.browser.press_key(KEYS["right"])
    assert film.canvas("other-canvas") != beside
    film.browser.go(film.address)
    film.settle("the film of before")
    film.wait("document.querySelectorAll('#rows canvas').length >= 3", "its strip")
    assert when(film) == "frame 1 of 9, 0.00 s"


@pytest.mark.skipif(not AXE.exists(), reason="no axe-core here; npm install --prefix out axe-core")
def test_axe_finds_nothing(film: Shown) -> None:
    film.browser.run("for (const each of document.querySelectorAll('details')) each.open = true")
    film.browser.run(AXE.read_text())
    film.browser.run("window.seen = null; axe.run().then(all => window.seen = all)")
    result: dict[str, Any] = film.wait("window.seen && {passes: seen.passes.length, bad: seen.violations}", "axe")
    assert result["passes"] > 20
    assert [(each["id"], [node["target"] for node in each["nodes"]]) for each in result["bad"]] == []


def test_all_text_stands_out_and_all_controls_have_names(film: Shown) -> None:
    for scheme in ("light", "dark"):
        film.browser.prefers(scheme)
        film.browser.run("for (const each of document.querySelectorAll('details')) each.open = true")
        assert film.browser.run(CONTRAST) == []
        assert film.browser.run(NAMELESS) == []
