"""A page under test, seen from one of its browser tabs."""

from __future__ import annotations

import io
import json
import time
from importlib.resources import files
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the page needs conceptlens[web]")

from starlette.testclient import TestClient

from conceptlens.web import Limits

DESCRIBED = json.loads((files("conceptlens") / "web" / "static" / "openapi.json").read_text())
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
        headers = {**self.headers, "content-type": "application/json"}
        return self.client.post(address, content=json.dumps(fields), headers=headers)

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
