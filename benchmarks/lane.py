"""Paints one prompt with the installed versions and holds picture and scores against the committed figures.

make lanes                                    # with the oldest and the newest versions of pyproject.toml
.venv/bin/python benchmarks/lane.py --write   # after the embedded model has changed
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

import conceptlens as cl
import conceptlens.web.app  # the page must import with these versions, too

PROMPT, SEED = "a red house and a tree under the sun", 45
CONCEPTS = ["house", "tree", "sun", "sky", "grass"]
FIGURES = Path(__file__).parent / "lane.json"
BARS = {"picture": 2.0, "scores": 0.005}
"""Largest deviations: of a cell's mean colour (0..255), of a cell's mean score."""
CELLS = 8


def cells(values: np.ndarray) -> np.ndarray:
    """Means over a grid of `CELLS` x `CELLS`, of (..., rows, cols)."""
    *leading, rows, cols = values.shape
    return values.reshape(*leading, CELLS, rows // CELLS, CELLS, cols // CELLS).mean(axis=(-3, -1))


def painted() -> dict[str, np.ndarray]:
    """Its picture and scores, coarsely."""
    maps = cl.load(device="cpu").generate(PROMPT, CONCEPTS, seed=SEED)
    picture = np.asarray(maps.image, float).transpose(2, 0, 1)
    return {"picture": cells(picture).round(1), "scores": cells(maps.scores.double().numpy()).round(4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="make this run's figures the committed ones")
    found = painted()
    if parser.parse_args().write:
        FIGURES.write_text(json.dumps({name: values.tolist() for name, values in found.items()}) + "\n")
    wanted = json.loads(FIGURES.read_text())
    off = {name: float(np.abs(found[name] - np.asarray(wanted[name])).max()) for name in BARS}
    names = ("torch", "diffusers", "transformers", "numpy", "pillow", "starlette", "typer")
    print(
        *(f"{name} {version(name)}" for name in names), *(f"{name} off by {value:.2g}" for name, value in off.items())
    )
    if any(off[name] > bar for name, bar in BARS.items()):
        sys.exit(f"the picture is not the committed one (bars {BARS})")


if __name__ == "__main__":
    main()
