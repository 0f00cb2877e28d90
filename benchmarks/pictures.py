"""The pictures of the documents: `docs/images/demo.png` and `docs/images/gallery.png`, from the embedded model.

.venv/bin/python benchmarks/pictures.py
"""

from __future__ import annotations

from pathlib import Path

import conceptlens as cl
from conceptlens.maps.pictures import contact_sheet

IMAGES = Path(__file__).parents[1] / "docs" / "images"
PROMPTS = (
    "a red house and a tree under the sun",
    "a blue boat on the sea",
    "a yellow star and a moon under a night sky",
    "a purple mountain and a white cloud",
    "an orange mushroom on the grass",
    "a pink flower and a red ball",
    "a green car on the sand",
    "a red balloon over the snow",
)


def main() -> None:
    session = cl.load(device="cpu")
    IMAGES.mkdir(parents=True, exist_ok=True)
    maps = session.generate(PROMPTS[0], ["house", "tree", "sun", "sky", "grass"], seed=45)
    maps.overlay(columns=4).save(IMAGES / "demo.png")
    painted = session.generate(list(PROMPTS), ["sky", "grass"], seed=0)
    contact_sheet([(m.prompt, m.image) for m in painted], columns=4).save(IMAGES / "gallery.png")


if __name__ == "__main__":
    main()
