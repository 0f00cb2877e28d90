"""A page over the embedded model, and a browser tab of it."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from conceptlens.bench.datasets.scenes import make_scene
from conceptlens.session import Session

pytest.importorskip("starlette", reason="the page needs conceptlens[web]")

from starlette.testclient import TestClient

from conceptlens.web import Limits, create_app

HOME = "http://127.0.0.1"
LIMITS = Limits(upload_bytes=200_000, upload_pixels=300_000, side=256, recorded_steps=2, pictures=3)


class Tab:
    """One browser tab."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.about = client.post("/api/tabs").json()
        self.headers = {"x-conceptlens-tab": self.about["tab"]}

    def get(self, address: str) -> Any:
        return self.client.get(address, headers=self.headers)

    def post(self, address: str, **fields: Any) -> Any:
        return self.client.post(address, json=fields, headers=self.headers)

    def upload(self, data: bytes, address: str = "/api/read") -> Any:
        return self.client.post(address, content=data, headers=self.headers)

    def finish(self, answer: Any) -> dict[str, Any]:
        """Waits for a job; what it told last."""
        assert answer.status_code == 202, answer.text
        until = time.monotonic() + 60
        while time.monotonic() < until:
            told = self.get(f"/api/jobs/{answer.json()['job']}").json()
            if told["state"] not in ("waiting", "running"):
                return told
            time.sleep(0.02)
        raise TimeoutError("the job did not end")


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def scene() -> Image.Image:
    return Image.fromarray(make_scene(8).image)


@pytest.fixture(scope="module")
def client(demo: Session) -> Iterator[TestClient]:
    with TestClient(create_app(demo, limits=LIMITS), base_url=HOME) as made:
        yield made


@pytest.fixture
def tab(client: TestClient) -> Tab:
    return Tab(client)


@pytest.fixture
def picture(tab: Tab, scene: Image.Image) -> str:
    return tab.finish(tab.upload(png(scene)))["picture"]
