"""As much of the W3C WebDriver protocol as the page's test needs; chromedriver speaks it as JSON over HTTP."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
KEYS = {"tab": "\ue004", "enter": "\ue007", "escape": "\ue00c", "right": "\ue014", "down": "\ue015"}


class Browser:
    """One window of a headless browser."""

    def __init__(self, driver: str, width: int, height: int, downloads: Path | None = None) -> None:
        self._driver = driver
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},{height}"]
        options: dict[str, Any] = {"binary": BROWSER, "args": flags}
        if downloads is not None:
            options["prefs"] = {"download.default_directory": str(downloads)}
        if width < 500:
            metrics = {"width": width, "height": height, "pixelRatio": 2, "touch": True, "mobile": True}
            options["mobileEmulation"] = {"deviceMetrics": metrics}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{made['sessionId']}"

    def _call(self, method: str, path: str, fields: Any = None) -> Any:
        data = None if fields is None else json.dumps(fields).encode()
        request = urllib.request.Request(self._driver + path, data, {"content-type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    def close(self) -> None:
        self._call("DELETE", self._session)

    def go(self, url: str) -> None:
        self._call("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        return self._call("POST", f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def _element(self, selector: str) -> str:
        found = self._call("POST", f"{self._session}/element", {"using": "css selector", "value": selector})
        return f"{self._session}/element/{next(iter(found.values()))}"

    def click(self, selector: str) -> None:
        self._call("POST", f"{self._element(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        self._call("POST", f"{self._element(selector)}/value", {"text": text})

    def text(self, selector: str) -> str:
        return self._call("GET", f"{self._element(selector)}/text")

    def point(self, x: int, y: int) -> None:
        """Moves the mouse to a place in the window."""
        move = {"type": "pointerMove", "duration": 0, "x": x, "y": y}
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": [move]}
        self._call("POST", f"{self._session}/actions", {"actions": [mouse]})

    def tap(self, x: int, y: int) -> None:
        """Touches a place in the window with a finger."""
        move = {"type": "pointerMove", "duration": 0, "x": x, "y": y}
        touch = [move, {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        finger = {"type": "pointer", "id": "finger", "parameters": {"pointerType": "touch"}, "actions": touch}
        self._call("POST", f"{self._session}/actions", {"actions": [finger]})

    def press_key(self, key: str) -> None:
        """A key, wherever the focus is."""
        strokes = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._call("POST", f"{self._session}/actions", {"actions": [{"type": "key", "id": "keys", "actions": strokes}]})

    def prefers(self, scheme: str, motion: str = "reduce") -> None:
        """Has the page shown as to a reader who prefers "light" or "dark", and by default no moving parts."""
        wanted = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
        media = {"features": [{"name": name, "value": value} for name, value in wanted.items()]}
        fields = {"cmd": "Emulation.setEmulatedMedia", "params": media}
        self._call("POST", f"{self._session}/goog/cdp/execute", fields)

    def complaints(self) -> list[str]:
        """What the browser's console holds of errors."""
        told = self._call("POST", f"{self._session}/se/log", {"type": "browser"})
        return [line["message"] for line in told if line["level"] == "SEVERE"]

    def screenshot(self) -> bytes:
        return base64.b64decode(self._call("GET", f"{self._session}/screenshot"))

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = 90) -> Any:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = condition()
            if found:
                return found
            time.sleep(0.1)
        raise AssertionError(f"{what}: not within {seconds:g} seconds; the page says {self.text('body')[:500]!r}")


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@contextmanager
def driver() -> Iterator[str]:
    """A running chromedriver; its address."""
    port = free_port()
    assert DRIVER
    process = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"{address}/status", timeout=5) as answer:
                    if json.load(answer)["value"]["ready"]:
                        break
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(20)
