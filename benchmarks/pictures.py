"""The pictures of the documents: `docs/images/reading.png` from the neutral model, `demo.png` and
`gallery.png` from the embedded one.

.venv/bin/python benchmarks/pictures.py
"""

from __future__ import annotations

from pathlib import Path

import conceptlens as cl
from conceptlens.bench.datasets import dataset_named
from conceptlens.maps.pictures import contact_sheet
from conceptlens.values.example import EXAMPLES

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
SCENE = "10000171"
"""A validation scene, read by the model that nobody trained to be read: of the first seventy with five concepts or more
that whose worst mask is best."""
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
    scene = dataset_named("scenes").open(None, split="validation")
    sample = scene.sample(SCENE)
    neutral = cl.load(ROOT / "zoo" / "neutral", device="cpu")
    seen = neutral.read(sample.image, preset="sharp", seed=0)
    neutral.probe(seen, [scene.classes[number] for number in sample.present]).overlay(4).save(IMAGES / "reading.png")
    session = cl.load(device="cpu")
    IMAGES.mkdir(parents=True, exist_ok=True)
    prompt, seed, words = EXAMPLES["demo"]
    session.generate(prompt, words, seed=seed).refined(edges=True).overlay(columns=3).save(IMAGES / "demo.png")
    painted = session.generate(list(PROMPTS), ["sky", "grass"], seed=0)
    contact_sheet([(m.prompt, m.image) for m in painted], columns=4).save(IMAGES / "gallery.png")


if __name__ == "__main__":
    main()
