"""What the worker's thread computes for a request: maps as bytes, and files to keep."""

from __future__ import annotations

import io
import json
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from conceptlens.maps.image_maps import ConceptMaps, chance_text
from conceptlens.maps.pictures import heat_colours, palette
from conceptlens.ops.doubt import doubt
from conceptlens.ops.grids import resize
from conceptlens.presence import presence
from conceptlens.session import Session
from conceptlens.values.records import ImageRecord
from conceptlens.values.words import ranked_words
from conceptlens.web.asking import Question
from conceptlens.web.jobs import default_steps, guides
from conceptlens.web.limits import Limits
from conceptlens.web.store import Picture
from conceptlens.web.wire import pack
from conceptlens.web.worker import with_notes

HEAT_STOPS = 16
"""Colours of the heat scale that the page gets; it draws straight lines between them."""
SHOWN = 512
"""Longer side, in pixels, at which areas and doubt are sent."""


def maps_of(session: Session, record: ImageRecord, asked: Question, *, keep: bool = False) -> ConceptMaps:
    """The maps that answer a question."""
    maps = session.probe(record, asked.concepts, keep=keep, **asked.options)
    return maps.refined(edges=True) if asked.edges else maps


def answer(session: Session, picture: Picture, asked: Question, limits: Limits, *, parts: bool) -> bytes:
    """Maps as bytes (see `wire`).

    "scores" (concept, rows, cols); "areas", the number of the concept that wins, and "doubt" (height, width), both at
    the size of the picture or shrunk; and with `parts` also "parts" (step, layer, concept, rows, cols) of all steps and
    layers, where they fit.
    """
    started, record = time.perf_counter(), picture.record
    maps, notes = with_notes(lambda: maps_of(session, record, asked, keep=parts))
    height, width = _shown_size(maps.image)
    doubtful = doubt(resize(maps.scores, height, width))
    content = {
        "concepts": list(maps.concepts),
        "asked": len(maps.asked),
        "shares": {name: place.area for name, place in maps.places().items()},
        "presence": {} if picture.reading is None else chances(session, picture.reading, maps.asked),
        "relations": [str(relation) for relation in maps.relations()][:12],
        "notes": notes,
        "line": maps.describe(),
        "seconds": round(time.perf_counter() - started, 4),
    }
    arrays = {
        "scores": (maps.scores.numpy(), "float16"),
        "areas": (_nearest(maps.segmentation(), height, width), "index"),
        "doubt": (doubtful.numpy(), "uint8"),
    }
    if maps.parts is not None:
        if maps.parts.numel() > limits.parts_bytes:
            content["notes"] = [*notes, "steps and layers are too many to look inside; ask for fewer words."]
        else:
            assert maps.recipe is not None
            content |= {"steps": list(record.recorded_steps), "layers": list(maps.recipe.layers or ())}
            arrays["parts"] = (maps.parts.numpy(), "uint8")
    return pack(content, arrays)


def _shown_size(image: Image.Image) -> tuple[int, int]:
    scale = min(1.0, SHOWN / max(image.size))
    return max(1, round(image.height * scale)), max(1, round(image.width * scale))


def _nearest(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    small = Image.fromarray(labels.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(small)


def chances(session: Session, reading: ImageRecord, words: tuple[str, ...]) -> dict[str, str]:
    """For each word whether it is in the picture, as the page tells it."""
    presences, _ = with_notes(lambda: presence(session, reading, words))
    return {each.concept: chance_text(each.chance) for each in presences}


def ranking(session: Session, picture: Picture, asked: Question) -> bytes:
    """How well each of many words fits at each patch: "scores" (word, rows, cols), summing to one over the words.

    "absent" are those of them that win a patch and are more likely not in the picture than in it.
    """
    maps, notes = with_notes(lambda: maps_of(session, picture.record, asked))
    winners = tuple(maps.concepts[number] for number in maps.scores.argmax(0).unique().tolist())
    absent = [] if picture.reading is None else _absent(session, picture.reading, winners)
    content = {"words": list(maps.concepts), "absent": absent, "notes": notes}
    return pack(content, {"scores": (maps.scores.numpy(), "float16")})


def _absent(session: Session, reading: ImageRecord, words: tuple[str, ...]) -> list[str]:
    presences, _ = with_notes(lambda: presence(session, reading, words))
    return [each.concept for each in presences if each.chance is not None and each.chance < 0.5]


def png(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def _saved(maps: ConceptMaps, wanted: Callable[[str], bool]) -> bytes:
    """Files of `ConceptMaps.save`: the only one as it is, several as a ZIP archive."""
    with tempfile.TemporaryDirectory(prefix="conceptlens-") as folder:
        files = sorted(path for path in maps.save(folder).iterdir() if wanted(path.name))
        if len(files) == 1:
            return files[0].read_bytes()
        return _zipped(files)


def _zipped(files: list[Path]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, path.name)
    return buffer.getvalue()


FORMATS = {
    "json": ("application/json", "maps.json"),
    "png": ("image/png", "labels.png"),
    "npz": ("application/octet-stream", "maps.npz"),
    "overlay": ("image/png", "overlay.png"),
    "masks": ("application/zip", "masks.zip"),
    "report": ("text/html", "report.html"),
    "everything": ("application/zip", "conceptlens.zip"),
}
"""How the answer about a picture can be had: the media type, and the name of the file."""


def in_format(session: Session, picture: Picture, asked: Question, kind: str) -> bytes:
    """An answer as the bytes of one of `FORMATS`."""
    maps, notes = with_notes(lambda: maps_of(session, picture.record, asked))
    if kind == "json":
        known = {} if picture.reading is None else chances(session, picture.reading, maps.asked)
        return json.dumps(_told(maps, known, notes), ensure_ascii=False).encode()
    files: dict[str, Callable[[], bytes]] = {
        "png": lambda: _saved(maps, lambda name: name == "labels.png"),
        "npz": lambda: _saved(maps, lambda name: name == "maps.npz"),
        "overlay": lambda: png(maps.overlay()),
        "masks": lambda: _saved(maps, lambda name: name.startswith(("mask-", "cutout-", "labels", "coco"))),
        "report": lambda: maps.report().encode(),
        "everything": lambda: _saved(maps, lambda name: True),
    }
    return files[kind]()


def _told(maps: ConceptMaps, presences: dict[str, str], notes: list[str]) -> dict[str, Any]:
    """For each word its mask as COCO's run lengths, its box, share and highest score; for the whole the rest."""
    masks = {each["category_id"]: each for each in maps.coco()["annotations"]}
    words = []
    for number, (name, place) in enumerate(maps.places().items(), 1):
        mask = masks.get(number, {})
        words.append(
            {
                "word": name,
                "share": place.area,
                "box": mask.get("bbox"),
                "mask": mask.get("segmentation"),
                "highest": float(maps[name].max()),
                "presence": presences.get(name),
            }
        )
    relations = [str(relation) for relation in maps.relations()]
    return {"words": words, "relations": relations, "notes": notes, "settings": maps.describe()}


def about(session: Session, limits: Limits) -> dict[str, Any]:
    """What the page needs to know before it asks anything."""
    ramp = np.linspace(0, 1, HEAT_STOPS, dtype=np.float32)[None]
    return {
        "model": session.model_id,
        "family": session.family,
        "vocabulary": session.vocabulary,
        "words": list(ranked_words(session.vocabulary)),
        "steps": default_steps(session),
        "guides": guides(session),
        "palette": palette(limits.concepts).tolist(),
        "heat": heat_colours(ramp)[0].tolist(),
        "limits": {
            name: getattr(limits, name)
            for name in ("prompt", "concepts", "word", "words", "steps", "upload_bytes", "upload_pixels")
        },
    }
