"""Takes the picture of the page for the documents, in a headless browser.

PYTHONPATH=tests/web .venv/bin/python tests/web/take_picture.py docs/app.png [--phone]
"""

from __future__ import annotations

import io
import sys
import threading
from pathlib import Path

import uvicorn
from PIL import Image
from webdriver import KEYS, Browser, driver

import conceptlens as cl
from conceptlens.web import create_app
from conceptlens.web.server import bind


def main(target: Path, width: int, height: int) -> None:
    listening = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(cl.load(device="cpu")), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        with driver() as address:
            browser = Browser(address, width, height)
            browser.go(f"http://127.0.0.1:{listening.getsockname()[1]}/")
            browser.wait(lambda: browser.run("return document.getElementById('prompt').value"), "the sample prompt")
            browser.run("document.getElementById('seed').value = 45")
            browser.click("#go")
            browser.wait(lambda: "%" in browser.text("#legend"), "maps")
            for word in ("sky", "grass"):
                browser.type("#word", word + KEYS["enter"])
            told = "return [...document.querySelectorAll('#legend .share')].filter(e => e.textContent).length"
            browser.wait(lambda: browser.run(told) == 5, "maps of five words")
            browser.run("document.querySelector('[data-view=areas]').click()")
            browser.run("document.activeElement.blur(); scrollTo(0, 0)")
            box = browser.run("return document.getElementById('canvas').getBoundingClientRect().toJSON()")
            x, y = int(box["x"] + 0.6 * box["width"]), int(box["y"] + 0.42 * box["height"])
            if width > 500:
                browser.wait(lambda: browser.point(x, y) or browser.text("#ranked"), "ranked words")
            picture = Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
            picture.quantize(200, dither=Image.Dither.NONE).save(target, optimize=True)
            browser.close()
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


if __name__ == "__main__":
    phone = "--phone" in sys.argv
    main(Path(sys.argv[1]), *((390, 844) if phone else (1200, 1060)))
