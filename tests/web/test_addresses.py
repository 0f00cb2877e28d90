"""Where the page listens and under which names: nothing but this computer without being told."""

from __future__ import annotations

import re

import pytest

from command_line import here
from conceptlens.web import AppError
from conceptlens.web.addresses import HERE, allowed_hosts


@pytest.mark.parametrize(
    ("host", "names", "allowed"),
    [
        ("127.0.0.1", (), HERE),
        ("localhost", (), ("localhost", "127.0.0.1", "[::1]")),
        ("127.0.0.2", (), ("127.0.0.2", *HERE)),
        ("127.0.0.1", ("Box.example",), ("box.example", *HERE)),
        ("0.0.0.0", ("box", "*.example.org"), ("box", "*.example.org", *HERE)),
        ("0.0.0.0", ("fe80::1", "[FE80::2]", "192.168.1.5"), ("[fe80::1]", "[fe80::2]", "192.168.1.5", *HERE)),
        ("0.0.0.0", ("*",), ("*", *HERE)),
        ("192.0.2.1", ("box",), ("box", "192.0.2.1", *HERE)),
    ],
)
def test_names_that_are_answered(host: str, names: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    assert allowed_hosts(host, names) == allowed


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])
def test_an_address_that_others_reach_needs_a_name(host: str) -> None:
    with pytest.raises(AppError, match=rf"^other computers can reach {re.escape(host)}, .*--allow-host NAME"):
        allowed_hosts(host, ())


@pytest.mark.parametrize(
    "name", ["http://box", "box:8321", "box/", "", "b*x", "*.", "*example", "a b", "[box]", "a..b"]
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(AppError, match=r"^--allow-host takes a name or an address without http:// and port.*; got"):
        allowed_hosts("0.0.0.0", (name,))


def test_the_command_refuses_before_it_opens_a_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("conceptlens.cli.commands.open_session", lambda *_, **__: pytest.fail("a model was opened"))
    assert here(monkeypatch, "app", "--host", "0.0.0.0", "--no-browser") == 2
    assert "other computers can reach 0.0.0.0" in " ".join(capsys.readouterr().err.split())
