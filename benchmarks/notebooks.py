"""Runs the notebooks of the documents and writes their outputs: into themselves, and as pages of the site.

.venv/bin/python benchmarks/notebooks.py   # half a minute on two cores
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

from PIL import Image

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = ("quick-start", "vision-encoder", "masks-for-other-tools")
HERE = "Run this page yourself: [{name}.ipynb]({name}.ipynb)."


def cells(name: str) -> list[dict[str, Any]]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def run(code: str, names: dict[str, Any]) -> list[dict[str, Any]]:
    """The outputs of one cell: what it prints, and the value of its last line when that is an expression."""
    tree, value = ast.parse(code), None
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        exec(compile(tree, "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(True)})
    if value is not None:
        outputs.append({"output_type": "display_data", "data": shown(value), "metadata": {}})
    return outputs


def shown(value: object) -> dict[str, Any]:
    """A value by media type, as notebooks store it."""
    if isinstance(value, Image.Image):
        buffer = io.BytesIO()
        value.quantize(128, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
        return {"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": "<a picture>"}
    to_html = getattr(value, "_repr_html_", None)
    if to_html is not None:
        return {"text/html": to_html(), "text/plain": "<a table and pictures>"}
    return {"text/plain": repr(value)}


def page(name: str, made: list[dict[str, Any]]) -> tuple[str, dict[str, bytes]]:
    """A notebook with outputs as Markdown, and its pictures by file name."""
    parts, pictures = [], {}
    for cell in made:
        if cell["cell_type"] == "markdown":
            parts.append(source(cell))
            continue
        parts.append(f"```python\n{source(cell)}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                file = f"{name}-{len(pictures)}.png"
                pictures[file] = base64.b64decode(data["image/png"])
                parts.append(f"![What the cell above shows]({file})")
            elif "text/html" in data:
                parts.append(data["text/html"])
            else:
                parts.append(f"```text\n{(data.get('text/plain') or ''.join(output['text'])).rstrip()}\n```")
    parts.insert(1, HERE.format(name=name))
    return "\n\n".join(parts) + "\n", pictures


def main() -> None:
    for name in NOTEBOOKS:
        path = FOLDER / f"{name}.ipynb"
        notebook = json.loads(path.read_text(encoding="utf-8"))
        names: dict[str, Any] = {}
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell["outputs"] = run(source(cell), names)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        text, pictures = page(name, notebook["cells"])
        for old in FOLDER.glob(f"{name}-*.png"):
            old.unlink()
        for file, data in pictures.items():
            (FOLDER / file).write_bytes(data)
        (FOLDER / f"{name}.md").write_text(text, encoding="utf-8")
        print(f"{name}: {len(pictures)} pictures")


if __name__ == "__main__":
    main()
