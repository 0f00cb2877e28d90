"""What the documents show is run, and what they claim comes from stored results."""

from __future__ import annotations

import importlib.util
import re
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from conceptlens.bench.datasets.scenes import make_scene

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "conceptlens"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ["values", "ops", "maps", "families", "families/kinds", "watch", "readers", "guidance", "methods"]
FOLDERS += ["assets", "features", "bench", "labels", "web", "cli"]
FOR_DEVELOPERS = [
    ROOT / "ARCHITECTURE.md",
    ROOT / "CONTRIBUTING.md",
    *(SOURCE / name / "README.md" for name in FOLDERS),
]
EVERYTHING = [*PAGES, *FOR_DEVELOPERS, ROOT / "llms.txt", ROOT / "training" / "README.md"]


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
@pytest.mark.filterwarnings("ignore:one word alone would win everywhere")
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
    assert scenes.protocol_of_the_table() in scenes.PAGE.read_text()


def test_the_tables_of_all_methods_come_from_the_stored_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    table = module(ROOT / "benchmarks" / "table.py")
    page, report = table.PAGE.read_text(), table.load()
    for text in (table.table_one(report).markdown(), table.table_two(report).markdown()):
        assert text in page, "run benchmarks/table.py --render"
    for model, axis in product(table.MODELS, table.AXES):
        assert table.render_ablation(model, axis) in page, f"{model}, {axis}: run benchmarks/table.py --render"


@pytest.mark.parametrize("model", ["demo-unet", "sd2", "sdxl", "neutral"])
def test_the_tables_of_guidance_come_from_the_stored_reports(model: str) -> None:
    guidance = module(ROOT / "benchmarks" / "guidance.py")
    page = (ROOT / "docs" / "guidance.md").read_text().replace("| |", "|  |")
    folder = guidance.demo_folder() if model == "demo-unet" else ROOT / "zoo" / model
    told, rows = guidance.load(folder)
    table = [line for line in guidance.render(told, rows).splitlines() if line.startswith("| ")]
    assert len(table) == 1 + len(told["settings"]["methods"])
    for line in table:
        assert line.split("|", 2)[2] in page, "run: benchmarks/guidance.py --render"


def test_documents_speak_of_the_project_alone() -> None:
    for page in [*EVERYTHING, ROOT / "CHANGELOG.md"]:
        text = page.read_text()
        assert "PLACEHOLDER" not in text, page
        assert not re.search(r"/(work|home|root|tmp)/", text), page


def test_models_in_the_package_hold_no_paths() -> None:
    for config in (ROOT / "src/conceptlens/assets").rglob("*.json"):
        assert not re.search(r'"/[a-z]+/', config.read_text()), config


def test_links_lead_somewhere() -> None:
    for page in EVERYTHING:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", EVERYTHING, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_that_documents_name_exist(page: Path) -> None:
    """A path is one in the repository, in the package or beside the document; a bare name is of any file there."""
    bare = {
        path.name for folder in ("src", "tests", "training", "benchmarks") for path in (ROOT / folder).rglob("*.py")
    }
    for name in re.findall(r"`([\w./-]+\.py)`", page.read_text()):
        places = (page.parent, SOURCE, SOURCE / "bench", ROOT)
        assert name in bare or any((place / name).exists() for place in places), f"{page.name} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_fences_are_ones_that_the_documentation_renders(page: Path) -> None:
    """A word behind the language makes MkDocs print the fence as text; `py` marks a snippet that is not run here."""
    assert set(re.findall(r"^ *```(.*)$", page.read_text(), flags=re.M)) <= {"", "python", "py", "bash", "js", "toml"}


def test_every_package_says_what_belongs_in_it() -> None:
    assert {path.parent.name for path in SOURCE.glob("*/__init__.py")} <= set(FOLDERS)


def test_the_worked_examples_are_the_files_they_explain() -> None:
    """All lines are those of the files, but for signatures, which are shown without their types."""
    blocks = re.findall(r"```py\n(.*?)```", (ROOT / "docs" / "adding-a-model.md").read_text(), flags=re.S)
    shown = [line for block in blocks for line in block.splitlines() if line and "def " not in line]
    files = (SOURCE / "families" / "cross" / "any_flow.py", SOURCE / "families" / "chroma.py")
    written = [
        line for path in (*files, ROOT / "tests" / "tiny_cross_video.py") for line in path.read_text().splitlines()
    ]
    assert len(shown) > 30
    assert [line for line in shown if line not in written] == []
