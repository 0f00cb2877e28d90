"""The pictures of docs/films.md: a film with its maps, a painted one, tracks, and films that are hard.

.venv/bin/python benchmarks/film_gallery.py --model zoo:film   # a minute; also prints the figures that the text gives

Films are chosen by what they show, not by how well they are read; the first one is the median of 24.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import conceptlens as cl
from conceptlens.bench.datasets.moving import Film, make_film
from conceptlens.bench.datasets.scenes import SPLITS
from conceptlens.bench.films.measuring import object_scores, segmentation_scores
from conceptlens.maps.pictures import contact_sheet, heat_colours, palette, tint
from conceptlens.maps.tracks import Tracks
from conceptlens.maps.video_maps import VideoMaps
from conceptlens.session import Session

IMAGES = Path(__file__).parents[1] / "docs" / "images"
FIRST = SPLITS["test"] + 5000
"""The first film; those of `bench films` come before it."""
SHOWN = range(0, 9, 2)
"""Frames on a sheet."""


def read(session: Session, film: Film) -> VideoMaps:
    return session.probe(session.read(film.clip, seed=film.seed), film.concepts, background=False)


def tracked(session: Session, film: Film, layers: tuple[int, ...]) -> Tracks:
    """Tracks of the first noun, linked by some layers' attention between frames."""
    record = session.read(film.clip, seed=film.seed, space="cross", layers=range(session.depth))
    options = {"space": "output", "background": False}
    maps = session.probe(record, film.concepts, layers=session.recipe().layers, **options)
    linking = session.probe(record, film.concepts, layers=layers, **options)
    return replace(maps, matches=linking.matches).tracks(film.objects[0].noun)


def sheet(maps: VideoMaps, film: Film) -> Image.Image:
    """Frames, their truth, what wins, and the heat of each noun."""
    colours, found = palette(len(film.concepts)), maps.segmentation()
    tiles = [(f"frame {frame}", maps.images[frame]) for frame in SHOWN]
    tiles += [("truth", Image.fromarray(colours[film.labels[frame]])) for frame in SHOWN]
    tiles += [("areas", Image.fromarray(colours[found[frame]])) for frame in SHOWN]
    for noun in film.concepts[:-2]:
        for frame in SHOWN:
            heat = maps.at(frame).heatmap(noun)
            tiles.append((noun, tint(maps.images[frame], heat_colours(heat), heat)))
    return contact_sheet(tiles, columns=len(SHOWN))


def save(session: Session, film: Film, name: str) -> None:
    maps = read(session, film)
    sheet(maps, film).save(IMAGES / f"film-{name}.png")
    found = maps.segmentation()
    print(name, film.seed, film.caption, segmentation_scores(found, film), object_scores(found, film), sep=" | ")


def twins(film: Film) -> bool:
    return film.crosses and len(film.objects) == 2 and len({item.noun for item in film.objects}) == 1


def least_seen(film: Film) -> float:
    """What is left of an object at its worst, behind another, as a share of what its first and last frame show."""
    seen = np.stack([(film.instances == index).sum((1, 2)) for index in range(len(film.objects))])
    return float((seen[:, 1:-1].min(1) / np.maximum(np.minimum(seen[:, 0], seen[:, -1]), 1)).min())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="zoo:film")
    args = parser.parse_args()
    session = cl.load(args.model, device="cpu")
    films = [make_film(FIRST + number) for number in range(400)]
    moving = [film for film in films if any(item.motion for item in film.objects)][:24]
    scored = sorted(moving, key=lambda film: segmentation_scores(read(session, film).segmentation(), film)["jf"] or 0)
    save(session, scored[len(scored) // 2], "median")
    read(session, scored[len(scored) // 2]).save_gif(IMAGES / "film.gif")
    save(session, max(moving, key=lambda film: max(item.speed for item in film.objects)), "fast")
    save(session, min(films, key=least_seen), "hidden")
    pair = next(film for film in films if twins(film))
    save(session, pair, "twins")
    tracks = tracked(session, pair, (2, 4))
    tiles = [(f"frame {frame}", tracks.outlined()[frame]) for frame in SHOWN]
    contact_sheet(tiles, columns=len(SHOWN)).save(IMAGES / "film-tracks.png")
    prompt = "a red ball rolls left on the grass under a blue sky"
    painted = session.generate(prompt, ["ball", "grass", "sky"], seed=0)
    sheets = [(f"frame {number}", painted.at(number).overlay(columns=5)) for number in (0, 4, 8)]
    contact_sheet(sheets, columns=1).save(IMAGES / "film-painted.png")
    print(painted.describe())


if __name__ == "__main__":
    main()
