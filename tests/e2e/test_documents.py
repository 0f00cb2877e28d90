"""What the documents show is run, and what they claim comes from stored results."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from conceptlens.bench.datasets.scenes import make_scene

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
@pytest.mark.filterwarnings("ignore:a softmax over the one concept")
def test_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(make_scene(8).image).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for snippet in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S):
        exec(compile(snippet, str(page), "exec"), names)


def test_the_results_tables_come_from_the_stored_reports() -> None:
    scenes = module(ROOT / "benchmarks" / "scenes.py")
    table = scenes.render(scenes.load())
    for path in scenes.TARGETS:
        assert table in path.read_text(), f"{path}: run benchmarks/scenes.py --render"
    for name in scenes.SWEEPS:
        assert scenes.render_ablation(name) in scenes.PAGE.read_text(), f"{name}: run benchmarks/scenes.py --render"
    assert scenes.protocol_line() in scenes.PAGE.read_text()


def test_the_table_of_guidance_comes_from_the_stored_report() -> None:
    guidance = module(ROOT / "benchmarks" / "guidance.py")
    page = (ROOT / "docs" / "guidance.md").read_text().replace("| |", "|  |")
    table = [line for line in guidance.render(*guidance.load()).splitlines() if line.startswith("| ")]
    assert len(table) == 1 + len(guidance.METHODS)
    for line in table:
        assert line.split("|", 2)[2] in page, "run: benchmarks/guidance.py --render"


def test_documents_speak_of_the_project_alone() -> None:
    for page in [*PAGES, ROOT / "CHANGELOG.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"]:
        text = page.read_text()
        assert "PLACEHOLDER" not in text, page
        assert not re.search(r"/(work|home|root|tmp)/", text), page


def test_models_in_the_package_hold_no_paths() -> None:
    for config in (ROOT / "src/conceptlens/assets").rglob("*.json"):
        assert not re.search(r'"/[a-z]+/', config.read_text()), config


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
