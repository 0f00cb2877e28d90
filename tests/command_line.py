"""The command line inside this process: quicker than starting Python anew."""

from __future__ import annotations

import sys

import pytest

from conceptlens import cli


def here(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Runs `conceptlens` with these arguments; its exit status."""
    monkeypatch.setattr(sys, "argv", ["conceptlens", *arguments])
    monkeypatch.setattr("warnings.showwarning", lambda *_, **__: None)
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
