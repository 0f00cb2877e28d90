"""Fixtures: the page, served, and shown in a browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from shown import Shown
from webdriver import BROWSER, DRIVER, Browser, driver

import conceptlens as cl


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The page, served; its URL. With a model of its own, since the tests run theirs while the server works."""
    pytest.importorskip("uvicorn", reason="the page is served with conceptlens[web]")
    from serving import served

    from conceptlens.web import Limits

    with served(cl.load(device="cpu"), Limits(recorded_steps=3, pictures=200)) as home:
        yield home


@pytest.fixture(scope="module")
def browser_address() -> Iterator[str]:
    if not (BROWSER and DRIVER):
        pytest.skip("no chromium with chromedriver here; apt-get install chromium chromium-driver")
    with driver() as found:
        yield found


@pytest.fixture
def page(browser_address: str, address: str) -> Iterator[Shown]:
    """The page on a screen, with its example; nothing may stand in the browser's console at the end."""
    yield from shown(browser_address, address, 1440, 1000)


@pytest.fixture
def phone(browser_address: str, address: str) -> Iterator[Shown]:
    """Likewise on a telephone."""
    yield from shown(browser_address, address, 390, 844)


def shown(browser_address: str, address: str, width: int, height: int) -> Iterator[Shown]:
    browser = Browser(browser_address, width, height)
    try:
        yield Shown(browser, address).open()
        assert [line for line in browser.complaints() if " 422 " not in line and " 404 " not in line] == []
    finally:
        browser.close()
