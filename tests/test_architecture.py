"""The import ladder, module sizes, public names: what ARCHITECTURE.md says, checked."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import conceptlens

SOURCE = Path(conceptlens.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
LADDER = [
    {"_version", "errors", "recipe", "records"},
    {"registry", "files", "films", "listings", "picture_files", "pictures", "words"},
    {"ops", "exports", "pages", "positions"},
    {"maps", "record_files"},
    {"video_maps"},
    {"adapters"},
    {"engine"},
    {"guidance"},
    {"session", "unet_session"},
    {"methods"},
    {"bench"},
    {"features", "presence", "rerun", "fidelity"},
    {"findings"},
    {"cli_checks", "cli_options"},
    {"cli_bench", "cli_fidelity", "cli_findings", "cli_listings", "cli_results"},
    {"cli", "web"},
]
HEAVY = {"diffusers": {"adapters", "engine", "guidance"}, "transformers": {"adapters", "engine", "methods", "fidelity"}}
LARGEST_MODULE, LARGEST_FUNCTION = 400, 60


def layer_of(part: str) -> int:
    return next(number for number, parts in enumerate(LADDER) if part in parts)


def part_of(path: Path) -> str:
    inside = path.relative_to(SOURCE)
    return inside.parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
    return found


def each_module() -> list[Path]:
    return [path for path in MODULES if path != SOURCE / "__init__.py"]


@pytest.mark.parametrize("path", each_module(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down_the_ladder(path: Path) -> None:
    own = layer_of(part_of(path))
    for name in imports(path):
        if name.startswith("conceptlens."):
            part = name.split(".")[1]
            assert layer_of(part) <= own, f"{path.name} imports {name}, which stands above it. See ARCHITECTURE.md."
        library = name.split(".")[0]
        if library in HEAVY:
            assert part_of(path) in HEAVY[library], f"{path.name} imports {library}; only {HEAVY[library]} may."


@pytest.mark.parametrize("folder", ["adapters", "methods", "guidance"])
def test_siblings_do_not_import_each_other(folder: str) -> None:
    shared = {"base", "__init__"}
    for path in (SOURCE / folder).glob("*.py"):
        if path.stem in shared:
            continue
        for name in imports(path):
            if name.startswith(f"conceptlens.{folder}."):
                sibling = name.split(".")[2]
                assert sibling in shared or sibling.startswith("_"), f"{path.name} imports its sibling {sibling}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_modules_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= LARGEST_MODULE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = [n for n in node.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
            if body and body[-1].end_lineno:
                size = body[-1].end_lineno - body[0].lineno + 1
                assert size <= LARGEST_FUNCTION, f"{path.name}:{node.name} has {size} lines"


@pytest.mark.parametrize("family", sorted((SOURCE / "adapters").glob("[a-z]*.py")), ids=lambda p: p.stem)
def test_a_family_is_one_small_file(family: Path) -> None:
    if family.stem != "base":
        assert family.read_text().count("\n") < 150


def test_the_engine_names_no_family() -> None:
    for path in (SOURCE / "engine").glob("*.py"):
        words = [n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)]
        texts = [w for w in words if isinstance(w, str) and "\n" not in w and len(w) < 40]
        assert not [w for w in texts if "flux" in w.lower()], path


def test_importing_the_package_is_silent_and_light() -> None:
    code = "import sys, conceptlens; print(sorted({'diffusers', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


def test_public_names() -> None:
    for name in conceptlens.__all__:
        assert getattr(conceptlens, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        conceptlens.lod  # noqa: B018
