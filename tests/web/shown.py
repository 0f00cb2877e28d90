"""The page as it is shown in a browser."""

from __future__ import annotations

from typing import Any

from webdriver import KEYS, Browser

SETTLED = """
    const rows = [...document.querySelectorAll('#legend li:not(.refused)')];
    return document.getElementById('busy').hidden && rows.every(row => row.querySelector('.share'))
        && document.getElementById('word').disabled === false;
"""


class Shown:
    """One page in one browser."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.browser, self.address = browser, address

    def open(self) -> Shown:
        """Loads the page, and waits for what it shows first."""
        self.browser.go(self.address)
        self.settle("the first picture")
        self.wait("document.querySelectorAll('#legend li').length", "its words")
        return self

    def js(self, expression: str, *arguments: Any) -> Any:
        return self.browser.run(f"return {expression}", *arguments)

    def wait(self, expression: str, what: str) -> Any:
        return self.browser.wait(lambda: self.js(expression), what)

    def settle(self, what: str = "maps") -> None:
        self.browser.wait(lambda: self.browser.run(SETTLED), what)

    def words(self) -> list[str]:
        return self.js("[...document.querySelectorAll('#legend .name')].map(e => e.textContent)")

    def shares(self) -> dict[str, str]:
        rows = "[...document.querySelectorAll('#legend li:not(.refused)')]"
        pairs = f"{rows}.map(r => [r.querySelector('.name').textContent, r.querySelector('.share')?.textContent])"
        return dict(self.js(pairs))

    def add(self, *words: str) -> None:
        for word in words:
            self.browser.type("#word", word + KEYS["enter"])

    def drop_all(self) -> None:
        self.browser.run("document.getElementById('clear').click()")

    def press(self, selector: str) -> None:
        """A click that needs no scrolling."""
        self.browser.run("document.querySelector(arguments[0]).click()", selector)

    def fill(self, name: str, value: object) -> None:
        script = "const [name, value] = arguments, field = document.getElementById(name); field.value = value;"
        self.browser.run(f"{script} field.dispatchEvent(new Event('input'))", name, value)

    def paint(self, prompt: str = "a red house and a tree under the sun", seed: int = 17, steps: int = 4) -> None:
        for name, value in (("prompt", prompt), ("seed", seed), ("steps", steps)):
            self.fill(name, value)
        self.press("#go")
        shown = f"/seed {seed}( |;|$)/.test(document.getElementById('this-caption').textContent)"
        self.wait(f"document.getElementById('busy').hidden && {shown}", "a painted picture")
        self.settle()

    def canvas(self, name: str = "canvas") -> str:
        return self.js(f"document.getElementById('{name}').toDataURL()")

    def point(self, across: float, down: float, *, touch: bool = False) -> None:
        """Moves the mouse to a place in the picture, or touches it; given as shares of its sides."""
        self.browser.run("document.getElementById('canvas').scrollIntoView({block: 'center'})")
        box = self.js("document.getElementById('canvas').getBoundingClientRect().toJSON()")
        act = self.browser.tap if touch else self.browser.point
        act(int(box["x"] + across * box["width"]), int(box["y"] + down * box["height"]))
