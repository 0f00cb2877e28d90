"""The Dockerfile of the Space: its files are there, and its command opens the page where the Space looks."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from conceptlens import cli, web

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "spaces" / "Dockerfile").read_text().splitlines()


def test_what_is_copied_and_installed_is_there() -> None:
    copied = [name for line in LINES if line.startswith("COPY") for name in line.split()[2:-1]]
    assert len(copied) >= 5
    for name in copied:
        assert (ROOT / name).exists(), name
    (extra,) = re.findall(r"'\.\[(\w+)\]'", "\n".join(LINES))
    assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_the_command_opens_the_page_at_the_spaces_port(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Any] = []
    (command,) = [json.loads(line.removeprefix("CMD ")) for line in LINES if line.startswith("CMD")]
    monkeypatch.setattr(web, "serve", lambda session, *how, **_: served.append((session.model_id, *how)))
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr("warnings.showwarning", lambda *_, **__: None)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    assert served == [("demo", "0.0.0.0", 7860, False)]
    assert "app_port: 7860" in (ROOT / "spaces" / "README.md").read_text()
    assert "EXPOSE 7860" in LINES
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert command[0] in scripts
