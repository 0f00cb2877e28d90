"""The pictures of docs/gallery.md and docs/method.md: what works and what fails, from the embedded model.

.venv/bin/python benchmarks/gallery.py   # half a minute; also prints the figures that the gallery's text gives
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import conceptlens as cl
from conceptlens.bench.datasets.scenes import Scene, make_scene
from conceptlens.maps.exports import ABSTAINED
from conceptlens.maps.image_maps import chance_text
from conceptlens.maps.pictures import contact_sheet, heat_colours, palette, tint
from conceptlens.presence import add_presence
from conceptlens.session import Session

IMAGES = Path(__file__).parents[1] / "docs" / "images"
FIRST = 10_000_000
"""The first scene of the validation split: none of these pictures was trained on."""


def scene_with(*nouns: str, ground: str | None = None) -> Scene:
    """The first scene that the seed alone makes hold exactly these objects."""
    for seed in range(FIRST, FIRST + 5000):
        scene = make_scene(seed)
        if {o.noun for o in scene.objects} == set(nouns) and ground in (None, scene.ground):
            return scene
    raise LookupError(nouns)


def ask(session: Session, image: np.ndarray, concepts: Sequence[str], name: str) -> cl.ConceptMaps:
    record = session.read(Image.fromarray(image), seed=0)
    maps = add_presence(session, session.probe(record, concepts), record)
    maps.overlay(columns=len(concepts) + 2).save(IMAGES / f"gallery-{name}.png")
    assert maps.presence is not None
    places = maps.places()
    print(name, {c: (chance_text(maps.presence[c]), f"{places[c].area:.1%}") for c in concepts})
    return maps


def works(session: Session) -> None:
    scene = scene_with("house", "tree", "sun")
    maps = ask(session, scene.image, scene.concepts, "works")
    tiles = [("image", maps.image), ("truth", coloured(maps, scene.labels)), ("areas", coloured(maps))]
    sharp = maps.refined(edges=True)
    tiles += [("edges", coloured(sharp)), ("edges, 10% left out", coloured(sharp.refined(abstain=0.1)))]
    contact_sheet(tiles, columns=5).save(IMAGES / "gallery-edges.png")
    for name, result in (("areas", maps), ("edges", sharp)):
        print(name, f"{(result.segmentation() == scene.labels).mean():.1%} of the pixels right")


def coloured(maps: cl.ConceptMaps, labels: np.ndarray | None = None) -> Image.Image:
    winners = maps.segmentation() if labels is None else labels.astype(int)
    colours = palette(len(maps.concepts))[winners]
    colours[winners < 0] = ABSTAINED
    return Image.fromarray(colours)


def tiny() -> tuple[np.ndarray, np.ndarray]:
    """A scene with a sun, and the same with a balloon of six pixels in its sky; the balloon's mask."""
    stage, donor = scene_with("sun", "house", ground="grass"), scene_with("balloon")
    mask = donor.mask("balloon")
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1)
    small = Image.fromarray(donor.image).crop(box).resize((5, 6), Image.Resampling.BOX)
    alpha = Image.fromarray(mask).crop(box).convert("L").resize((5, 6), Image.Resampling.BOX)
    sky = stage.mask("sky")
    y, x = max(((y, x) for y in range(4, 30) for x in range(4, 54)), key=lambda p: distance(sky, *p))
    image = Image.fromarray(stage.image)
    image.paste(small, (x, y), alpha)
    truth = np.zeros((64, 64), bool)
    truth[y : y + 6, x : x + 5] = np.asarray(alpha) > 127
    return np.asarray(image), truth


def distance(sky: np.ndarray, y: int, x: int) -> int:
    """How far a place is from anything but sky, in pixels, at most 12."""
    return next((r for r in range(1, 12) if not sky[max(0, y - r) : y + r + 6, max(0, x - r) : x + r + 5].all()), 12)


def fails(session: Session) -> None:
    absent = scene_with("tree", "ball")
    ask(session, absent.image, ["tree", "boat", "sky", absent.ground], "absent")
    sun = scene_with("sun")
    ask(session, sun.image, ["moon", "sky", sun.ground], "near-synonym")
    ask(session, sun.image, ["moon", "sun", "sky", sun.ground], "near-synonym-mended")
    image, truth = tiny()
    maps = ask(session, image, ["balloon", "sun", "house", "sky", "grass"], "tiny")
    mask = maps.mask("balloon", "argmax")
    found, all_ = int((mask & truth).sum()), int(mask.sum())
    print("tiny balloon:", int(truth.sum()), "pixels, found", found, "in a mask of", all_)
    mixed = scene_with("mountain", "cloud", "tree")
    maps = ask(session, mixed.image, mixed.concepts, "overlap")
    for concept in mixed.concepts:
        mask, true = maps.mask(concept, "argmax"), mixed.mask(concept)
        print("overlap", concept, f"IoU {(mask & true).sum() / (mask | true).sum():.2f}")


def method(session: Session) -> None:
    """One concept block by block, and what competition does to it."""
    scene = scene_with("house", "tree", "sun")
    record = session.read(Image.fromarray(scene.image), seed=0)
    maps = session.probe(record, scene.concepts, keep=True)
    assert maps.parts is not None
    assert maps.recipe is not None
    layers = maps.recipe.layers or ()
    tiles = [("image", maps.image)]
    for number, layer in enumerate(layers):
        part = cl.ConceptMaps(maps.concepts, maps.parts[0, number], maps.image, None, "demo")
        tiles.append((f"block {layer}", heat(part, "tree")))
    contact_sheet([*tiles, ("mean", heat(maps, "tree"))], columns=7).save(IMAGES / "method-blocks.png")
    raw = session.probe(record, scene.concepts, softmax=False)
    tiles = [("tree, raw", heat(raw, "tree")), ("sky, raw", heat(raw, "sky"))]
    tiles += [("tree, softmax", heat(maps, "tree")), ("sky, softmax", heat(maps, "sky"))]
    contact_sheet(tiles, columns=4).save(IMAGES / "method-softmax.png")


def heat(maps: cl.ConceptMaps, concept: str) -> Image.Image:
    values = maps.heatmap(concept)
    return tint(maps.image, heat_colours(values), values)


def main() -> None:
    warnings.simplefilter("ignore", UserWarning)
    session = cl.load(device="cpu")
    works(session)
    fails(session)
    method(session)


if __name__ == "__main__":
    main()
