"""What the worker's thread computes for a request: maps as bytes, and files to keep."""

from __future__ import annotations

import io
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


def ranking(session: Session, record: ImageRecord, asked: Question) -> bytes:
    """How well each of many words fits at each patch: "scores" (word, rows, cols), summing to one over the words."""
    maps, notes = with_notes(lambda: maps_of(session, record, asked))
    return pack({"words": list(maps.concepts), "notes": notes}, {"scores": (maps.scores.numpy(), "float16")})


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


FILES: dict[str, tuple[str, str, Callable[[ConceptMaps], bytes]]] = {
    "overlay": ("image/png", "overlay.png", lambda maps: png(maps.overlay())),
    "masks": (
        "application/zip",
        "masks.zip",
        lambda maps: _saved(maps, lambda name: name.startswith(("mask-", "cutout-", "labels", "coco"))),
    ),
    "maps": ("application/octet-stream", "maps.npz", lambda maps: _saved(maps, lambda name: name == "maps.npz")),
    "report": ("text/html", "report.html", lambda maps: maps.report().encode()),
    "everything": ("application/zip", "conceptlens.zip", lambda maps: _saved(maps, lambda name: True)),
}
"""What can be downloaded: the media type, the name of the file, and how it is made."""


def download(session: Session, record: ImageRecord, asked: Question, kind: str) -> bytes:
    """One of `FILES`."""
    maps, _ = with_notes(lambda: maps_of(session, record, asked))
    return FILES[kind][2](maps)


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
