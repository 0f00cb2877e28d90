"""The page for everybody: names, contrast, the keyboard, in light and dark, on a screen and on a telephone.

axe-core finds more than these tests, where it is at hand: npm install --prefix out axe-core
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from shown import Shown
from webdriver import KEYS

AXE = Path(__file__).parents[2] / "out" / "node_modules" / "axe-core" / "axe.min.js"
CONTRAST = """
    const luminance = ([r, g, b]) => {
        const [x, y, z] = [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const parts = colour => { const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number); return [[r, g, b], a]; };
    const behind = element => {
        for (let each = element; each; each = each.parentElement) {
            const [colour, alpha] = parts(getComputedStyle(each).backgroundColor);
            if (alpha === 1) return colour;
        }
        return [255, 255, 255];
    };
    const weak = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !element.checkVisibility({visibilityProperty: true})) continue;
        if (element.closest(':disabled, option, script, noscript')) continue;
        const pair = [parts(getComputedStyle(element).color)[0], behind(element)].map(luminance).sort((a, b) => b - a);
        const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
        if (ratio < 4.5) weak.push(`${ratio.toFixed(2)} ${walker.currentNode.data.trim()}`);
    }
    return weak
"""
NAMELESS = """
    return [...document.querySelectorAll('button, input, select, textarea, canvas, summary, [role]')]
        .filter(e => e.checkVisibility() && !e.closest('[aria-hidden=true]'))
        .filter(e => !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim()
            || ['status', 'alert'].includes(e.role)))
        .map(e => e.outerHTML)
"""


@pytest.fixture(params=["page", "phone"])
def shown(request: pytest.FixtureRequest) -> Shown:
    return request.getfixturevalue(request.param)


def everything_open(shown: Shown) -> None:
    """All folds open, heat shown, a word removed, one refused, a second picture beside."""
    shown.browser.run("for (const each of document.querySelectorAll('details')) each.open = true")
    shown.press("#legend li:last-child .drop")
    shown.add("龘")
    shown.wait("document.querySelector('#legend .refused')", "a refused word")
    shown.paint("a house", seed=3, steps=1)
    shown.press("#gallery li:nth-child(2) .compare")
    shown.wait("document.getElementById('other').offsetParent !== null", "the compared picture")
    shown.press("#legend .name")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_and_all_controls_have_names(shown: Shown, scheme: str) -> None:
    shown.browser.prefers(scheme)
    dark = shown.js("getComputedStyle(document.body).backgroundColor") != "rgb(246, 244, 239)"
    assert dark == (scheme == "dark")
    for act in (lambda _: None, everything_open):
        act(shown)
        assert shown.browser.run(CONTRAST) == []
        assert shown.browser.run(NAMELESS) == []


@pytest.mark.skipif(not AXE.exists(), reason="no axe-core here; npm install --prefix out axe-core")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(shown: Shown, scheme: str) -> None:
    shown.browser.prefers(scheme)
    shown.browser.run(AXE.read_text())
    for act in (lambda _: None, everything_open):
        act(shown)
        shown.browser.run("window.seen = null; axe.run().then(all => window.seen = all)")
        result: dict[str, Any] = shown.wait("window.seen && {passes: seen.passes.length, bad: seen.violations}", "axe")
        assert result["passes"] > 20
        assert [(each["id"], [node["target"] for node in each["nodes"]]) for each in result["bad"]] == []


def test_every_control_is_reached_by_the_tab_key(page: Shown) -> None:
    page.browser.run("for (const each of document.querySelectorAll('details')) each.open = true")
    page.wait("document.querySelectorAll('#strip .cell').length", "the small maps")
    page.browser.run("window.seen = new Set(); document.body.tabIndex = -1; document.body.focus()")
    for _ in range(90):
        page.browser.press_key(KEYS["tab"])
        page.browser.run("window.seen.add(document.activeElement)")
        if page.js("document.activeElement === document.body"):
            break
    missed = page.js(
        "[...document.querySelectorAll('button, input, select, textarea, summary, canvas[tabindex]')].filter(e => "
        "e.checkVisibility() && !e.disabled && e.tabIndex >= 0 && !window.seen.has(e)).map(e => e.outerHTML)"
    )
    assert missed == []
