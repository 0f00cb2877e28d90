"""The import ladder, module sizes, public names: what ARCHITECTURE.md says, checked."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import conceptlens

SOURCE = Path(conceptlens.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
LADDER = [
    {"_version", "values"},
    {"ops"},
    {"maps", "families"},
    {"watch"},
    {"readers"},
    {"guidance"},
    {"session", "diagnosis"},
    {"methods", "features", "presence", "rerun"},
    {"bench", "web"},
    {"labels"},
    {"cli"},
]
HEAVY = {
    "diffusers": {"families", "watch", "readers", "guidance", "diagnosis"},
    "transformers": {"families", "watch", "readers", "methods", "bench"},
}
LARGEST_MODULE, LARGEST_FUNCTION = 400, 50


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


def leaves(folder: str) -> dict[str, Path]:
    """Modules that hold one family, method or guidance each, by their names: nothing is built on them."""
    mark = "(Guidance)" if folder == "guidance" else "@register"
    return {module_name(path): path for path in (SOURCE / folder).rglob("[a-z]*.py") if mark in path.read_text()}


@pytest.mark.parametrize("folder", ["families", "methods", "guidance"])
def test_no_family_method_or_guidance_is_imported_by_another(folder: str) -> None:
    known = leaves(folder)
    assert len(known) > 3
    for path in (SOURCE / folder).rglob("*.py"):
        if path.stem == "__init__":
            continue
        assert not set(imports(path)) & set(known), f"{path.name} imports its sibling"


@pytest.mark.parametrize("path", each_module(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_package_reaches_into_anothers_private_modules(path: Path) -> None:
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "conceptlens" and any(part.startswith("_") and part != "_version" for part in parts[1:]):
            assert path.parent == SOURCE.joinpath(*parts[1:-1]), f"{path.name} imports {name}"


@pytest.mark.parametrize("deferred", [False, True])
def test_imports_form_no_circle(deferred: bool) -> None:
    """The ladder orders the parts; inside a part, no module may be its own ancestor, not even by a late import."""
    arrows = {module_name(path): set(imports_of_modules(path, deferred)) for path in each_module()}
    seen: dict[str, int] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name in seen:
            return
        for other in sorted(arrows.get(name, ())):
            visit(other, (*trail, name))
        seen[name] = 1

    for name in arrows:
        visit(name, ())


def test_exceptions_to_the_lint_rules_are_few_and_give_a_reason() -> None:
    root = Path(__file__).parents[1]
    paths = [path for folder in ("src", "tests", "training", "benchmarks") for path in (root / folder).rglob("*.py")]
    single = [line for path in paths for line in path.read_text().splitlines() if "# " + "noqa" in line]
    table = (root / "pyproject.toml").read_text().split("[tool.ruff.lint.per-file-ignores]\n")[1].split("\n\n")[0]
    assert [line for line in single if " - " not in line.split("# " + "noqa")[1]] == []
    assert [line for line in table.splitlines() if "] # " not in line] == []
    assert len(single) + len(table.splitlines()) < 40


def test_the_root_is_small() -> None:
    assert len(list(SOURCE.glob("*.py"))) <= 7


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of_modules(path: Path, deferred: bool) -> list[str]:
    """Modules of the package that a module imports: at its top level, or anywhere but for type checkers alone."""
    known = {module_name(other) for other in MODULES}
    found = []
    for node in executed(ast.parse(path.read_text())) if deferred else ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("conceptlens"):
            module = str(node.module)
            inner = [f"{module}.{alias.name}" for alias in node.names]
            found += [name if name in known else module for name in inner]
    return [name for name in found if name not in ("conceptlens", module_name(path))]


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below one, without those under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from executed(child)


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


@pytest.mark.parametrize("family", sorted(leaves("families")))
def test_a_family_is_one_small_file(family: str) -> None:
    assert leaves("families")[family].read_text().count("\n") < 150


def test_a_served_class_stands_in_one_file() -> None:
    """What is said of a class is said once: by its family, which the rest of the package asks."""
    texts = {path: path.read_text() for path in MODULES}
    for family, path in leaves("families").items():
        for name in re.findall(r"\"(\w*(?:Transformer|DiT)\w*Model)\"", path.read_text()):
            named = {module_name(other) for other, text in texts.items() if name in text}
            assert named == {family}, f"{name} stands in {named}"


def test_the_engine_names_no_family() -> None:
    for path in (SOURCE / "readers").glob("*.py"):
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
        _ = conceptlens.lod
