"""The notebooks run, and their pages in the documents are theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_documents import ROOT, module

notebooks = module(ROOT / "benchmarks" / "notebooks.py")


def kinds(outputs: list[dict[str, Any]]) -> list[list[str]]:
    return [sorted(output.get("data", {"stdout": None})) for output in outputs]


LONG = "vision-encoder"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == LONG else []) for name in notebooks.NOTEBOOKS]
)
def test_it_runs_and_shows_what_the_page_shows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    page = (notebooks.FOLDER / f"{name}.md").read_text()
    for cell in notebooks.cells(name):
        text = notebooks.source(cell)
        assert text in page, "run benchmarks/notebooks.py"
        if cell["cell_type"] == "code":
            assert kinds(notebooks.run(text, names)) == kinds(cell["outputs"]), text


def test_a_cell_shows_what_it_prints_and_its_last_value() -> None:
    names: dict[str, Any] = {}
    first, second = notebooks.run("x = 3\nprint('seen')\nx + 1", names)
    assert first["text"] == ["seen\n"]
    assert second["data"] == {"text/plain": "4"}
    assert notebooks.run("x = 5", names) == []
    with pytest.raises(ZeroDivisionError):
        notebooks.run("x / 0", names)
