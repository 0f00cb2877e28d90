"""One film to figures: what maps and tracks say against what was drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer

from conceptlens.bench.datasets.moving import MOTIONS, Film
from conceptlens.bench.film_metrics import boundary, identities, of_frames, region
from conceptlens.bench.metrics import roc_auc
from conceptlens.maps.links import Link, Mask, linked
from conceptlens.maps.video_maps import VideoMaps
from conceptlens.ops.parts import connected_parts
from conceptlens.ops.tracks import cells_of, low_pass, matched_positions, shares

Labels = Integer[np.ndarray, "frame height width"]
SMALLEST = 0.005
"""Share of the frame below which a part of a mask is no instance; the default of `VideoMaps.tracks`."""


def segmentation_scores(found: Labels, film: Film) -> dict[str, float | None]:
    """Mean IoU over all concepts of a film; of its objects J, F and their mean. Each is a mean over frames.

    Args:
        found: for each pixel of each frame an index into the film's concepts.
        film: with the truth.
    """
    every, things = range(len(film.concepts)), range(len(film.concepts) - 2)
    miou = np.nanmean(np.nanmean(of_frames(region, found, film.labels, every), axis=0))
    j, f = (float(np.nanmean(of_frames(metric, found, film.labels, things))) for metric in (region, boundary))
    return {"miou": round(float(miou), 4), "j": round(j, 4), "f": round(f, 4), "jf": round((j + f) / 2, 4)}


def object_scores(found: Labels, film: Film) -> list[dict[str, Any]]:
    """J of each object whose noun is drawn once, the mean over the frames that show it, with how it behaves.

    `speed` in pixels per frame; `meets` another object, `leaves`: is partly out of the frame, in some frame.
    """
    nouns, rows = [item.noun for item in film.objects], []
    size = film.labels.shape[1]
    for index, item in enumerate(film.objects):
        if nouns.count(item.noun) > 1:
            continue
        number = film.concepts.index(item.noun)
        shown = [frame for frame, truth in enumerate(film.instances) if (truth == index).any()]
        ious = [region(found[frame] == number, film.instances[frame] == index) for frame in shown]
        inside = all(item.radius <= x <= size - item.radius for x, _ in item.path)
        meets = any(film.meet(index, other) for other in range(len(film.objects)) if other != index)
        behaves = {"speed": round(item.speed, 3), "meets": meets, "leaves": not inside}
        rows.append({"noun": item.noun, "j": round(float(np.mean(ious)), 4), **behaves})
    return rows


def motion_words(film: Film) -> dict[str, list[int]]:
    """Words that say how things move, where some objects of a film move so and others do not: those that do."""
    words = {word: [n for n, item in enumerate(film.objects) if word in item.motion.split()] for word in MOTIONS}
    return {word: which for word, which in words.items() if 0 < len(which) < len(film.objects)}


def motion_scores(maps: VideoMaps, film: Film, which: Sequence[int]) -> dict[str, float]:
    """ROC-AUC of a word's scores for the objects that move so: over all pixels, and among pixels of objects alone.

    The maps are of that word alone, raw. 0.5 is chance.
    """
    scores = np.stack([maps.at(frame).pixels()[0].numpy() for frame in range(len(maps))])
    there = np.isin(film.instances, which)
    things = film.instances >= 0
    return {
        "everywhere": round(roc_auc(scores, there), 4),
        "among objects": round(roc_auc(scores[things], there[things]), 4),
    }


def tracking_scores(maps: VideoMaps, film: Film, nouns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Identities of a film's objects: by matches and by overlap alone, on masks of the maps and on the true ones."""
    truth = film.instances.astype(int) + 1
    links: dict[str, Link] = {name: maps.linking(name) for name in ("match", "overlap")}
    found = {f"{link}, maps": maps.tracks(*nouns, link=link, smallest=SMALLEST).labels() for link in links}
    found |= {f"{name}, true masks": true_tracks(film, nouns, link) for name, link in links.items()}
    scored = {name: identities(labels, truth) for name, labels in found.items()}
    return {
        name: {"switches": one.switches, "idf1": round(one.idf1, 4), "matched": round(one.matched, 4)}
        for name, one in scored.items()
    }


def true_tracks(film: Film, nouns: Sequence[str], link: Link) -> Labels:
    """Tracks of the true masks of nouns, which do not tell objects of one noun apart: what linking alone can do."""
    tracks: list[dict[int, Mask]] = []
    for noun in nouns:
        masks = film.labels == film.concepts.index(noun)
        tracks += linked([connected_parts(mask, SMALLEST) for mask in masks], link, SMALLEST)
    labels = np.zeros(film.labels.shape, int)
    for number, track in enumerate(tracks, 1):
        for frame, mask in track.items():
            labels[frame][mask] = number
    return labels


def match_hits(maps: VideoMaps, film: Film) -> dict[str, float | None]:
    """How often a cell of an object leads to a cell of that object in the next latent frame.

    `hits` by the matches, `stays` by standing still. A cell is of the object that covers at least half of it. None
    where no object has a cell in two latent frames in turn.
    """
    assert maps.matches is not None
    rows, cols = maps.scores.shape[2:]
    cells = cells_of(rows, cols)
    latent = maps.latent_frames
    first_of = [latent.index(number) for number in range(maps.scores.shape[1])]
    hits: list[bool] = []
    stays: list[bool] = []
    for start in range(len(first_of) - 1):
        places = matched_positions(low_pass(maps.matches[0, start], cells), cells).round().int()
        leads_to = places[:, 0] * cells[1] + places[:, 1]
        for thing in range(len(film.objects)):
            here, there = (
                shares(film.instances[first_of[number]] == thing, rows, cols) >= 0.5 for number in (start, start + 1)
            )
            if there.any():
                hits += there[leads_to[here]].tolist()
                stays += there[here].tolist()
    return {name: round(float(np.mean(of)), 4) if of else None for name, of in (("hits", hits), ("stays", stays))}
