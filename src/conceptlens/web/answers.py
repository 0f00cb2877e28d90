"""What the worker's thread computes for a request: maps as bytes, and files to keep."""

from __future__ import annotations

import io
import json
import math
import tempfile
import time
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from conceptlens.maps.image_maps import ConceptMaps, chance_text
from conceptlens.maps.pictures import heat_colours, palette
from conceptlens.maps.video_maps import VideoMaps
from conceptlens.ops.doubt import doubt
from conceptlens.ops.grids import resize
from conceptlens.presence import presence
from conceptlens.session import Session
from conceptlens.values.records import ImageRecord
from conceptlens.values.words import ranked_words
from conceptlens.web.asking import Question
from conceptlens.web.errors import RequestError
from conceptlens.web.jobs import default_steps, guides, is_of_films
from conceptlens.web.limits import Limits
from conceptlens.web.store import Picture
from conceptlens.web.wire import pack
from conceptlens.web.worker import with_notes

HEAT_STOPS = 16
"""Colours of the heat scale that the page gets; it draws straight lines between them."""
SHOWN = 512
"""Longer side, in pixels, at which areas and doubt are sent."""
FILM_SHOWN = 4_000_000
"""Pixels of the areas of all frames of a film together, likewise."""
Arrays = dict[str, tuple[np.ndarray, str]]
"""See `conceptlens.web.wire.pack`."""


def maps_of(session: Session, picture: Picture, asked: Question, *, keep: bool = False) -> ConceptMaps | VideoMaps:
    """The maps that answer a question.

    Raises:
        RequestError: for a frame that is not there, and for edges in all frames of a film.
    """
    picture.check_frame(asked.frame)
    if asked.edges and picture.clip is not None and asked.frame is None:
        raise RequestError(422, "edges are followed in one frame of a film alone. Give frame, or leave edges out.")
    maps: Any = session.probe(picture.record, asked.concepts, keep=keep, **asked.options)
    if asked.frame is not None:
        maps = maps.at(asked.frame)
    return maps.refined(edges=True) if asked.edges else maps


def answer(session: Session, picture: Picture, asked: Question, limits: Limits, *, parts: bool) -> bytes:
    """Maps as bytes (see `wire`).

    "scores" (concept, rows, cols); "areas", the number of the concept that wins, and "doubt" (height, width), both at
    the size of the picture or shrunk; and with `parts` also "parts" (step, layer, concept, rows, cols) of all steps and
    layers, where they fit. Of a film see `_film`.
    """
    started = time.perf_counter()
    maps, notes = with_notes(lambda: maps_of(session, picture, asked, keep=parts))
    content, arrays = _film(maps) if isinstance(maps, VideoMaps) else _picture(session, picture, maps)
    content |= {"notes": notes, "line": maps.describe(), "seconds": round(time.perf_counter() - started, 4)}
    if maps.parts is not None:
        if maps.parts.numel() > limits.parts_bytes:
            content["notes"] = [*notes, "steps and layers are too many to look inside; ask for fewer words."]
        else:
            assert maps.recipe is not None
            content |= {"steps": list(picture.record.recorded_steps), "layers": list(maps.recipe.layers or ())}
            arrays["parts"] = (maps.parts.numpy(), "uint8")
    return pack(content, arrays)


def _picture(session: Session, picture: Picture, maps: ConceptMaps) -> tuple[dict[str, Any], Arrays]:
    height, width = _shown_size(maps.image.size)
    doubtful = doubt(resize(maps.scores, height, width))
    content = {
        "concepts": list(maps.concepts),
        "asked": len(maps.asked),
        "shares": {name: place.area for name, place in maps.places().items()},
        "presence": {} if picture.reading is None else chances(session, picture.reading, maps.asked),
        "relations": [str(relation) for relation in maps.relations()][:12],
    }
    arrays: Arrays = {
        "scores": (maps.scores.numpy(), "float16"),
        "areas": (_nearest(maps.segmentation(), height, width), "index"),
        "doubt": (doubtful.numpy(), "uint8"),
    }
    return content, arrays


def _film(maps: VideoMaps) -> tuple[dict[str, Any], Arrays]:
    """What is told of a picture, with frames: "scores" and "parts" have an axis of latent frames before the rows.

    "areas" are (frame, height, width), "doubt" is (latent frame, height, width). `latents` has the number of each
    frame's latent frame, `timeline` when each word is there (`Timeline.to_dict`); `shares` are of the whole film.
    """
    height, width = _shown_size(maps.clip.size, len(maps))
    areas = [_nearest(frame, height, width) for frame in maps.segmentation()]
    doubtful = np.stack([doubt(resize(scores, height, width)).numpy() for scores in maps.scores.unbind(1)])
    line = maps.timeline()
    content = {
        "concepts": list(maps.concepts),
        "asked": len(maps.asked),
        "shares": dict(zip(maps.asked, line.share.mean(axis=1).tolist(), strict=False)),
        "presence": {},
        "relations": [],
        "latents": list(maps.latent_frames),
        "timeline": line.to_dict(),
    }
    arrays: Arrays = {
        "scores": (maps.scores.numpy(), "float16"),
        "areas": (np.stack(areas), "index"),
        "doubt": (doubtful, "uint8"),
    }
    return content, arrays


def _shown_size(size: tuple[int, int], frames: int = 1) -> tuple[int, int]:
    """(height, width) at which a picture's areas are sent, or those of each frame of a film."""
    width, height = size
    scale = min(1.0, SHOWN / max(size), math.sqrt(FILM_SHOWN / (frames * width * height)))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _nearest(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    small = Image.fromarray(labels.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(small)


def chances(session: Session, reading: ImageRecord, words: tuple[str, ...]) -> dict[str, str]:
    """For each word whether it is in the picture, as the page tells it."""
    presences, _ = with_notes(lambda: presence(session, reading, words))
    return {each.concept: chance_text(each.chance) for each in presences}


def ranking(session: Session, picture: Picture, asked: Question) -> bytes:
    """How well each of many words fits at each patch: "scores" (word, rows, cols), summing to one over the words.

    Of a film they have an axis of latent frames before the rows, and `latents` is there as in `_film`.

    "absent" are those of them that win a patch and are more likely not in the picture than in it.
    """
    maps, notes = with_notes(lambda: maps_of(session, picture, asked))
    winners = tuple(maps.concepts[number] for number in maps.scores.argmax(0).unique().tolist())
    absent = [] if picture.reading is None else _absent(session, picture.reading, winners)
    content: dict[str, Any] = {"words": list(maps.concepts), "absent": absent, "notes": notes}
    if isinstance(maps, VideoMaps):
        content["latents"] = list(maps.latent_frames)
    return pack(content, {"scores": (maps.scores.numpy(), "float16")})


def _absent(session: Session, reading: ImageRecord, words: tuple[str, ...]) -> list[str]:
    presences, _ = with_notes(lambda: presence(session, reading, words))
    return [each.concept for each in presences if each.chance is not None and each.chance < 0.5]


def png(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def _saved(maps: ConceptMaps | VideoMaps, wanted: Callable[[str], bool]) -> bytes:
    """Files of what `save` writes: the only one as it is, several as a ZIP archive."""
    with tempfile.TemporaryDirectory(prefix="conceptlens-") as folder:
        files = sorted(path for path in maps.save(folder).iterdir() if wanted(path.name))
        if len(files) == 1:
            return files[0].read_bytes()
        return _zipped(files)


def _written(save: Callable[[Path], Path], name: str) -> bytes:
    """The bytes of a file that is saved under a name."""
    with tempfile.TemporaryDirectory(prefix="conceptlens-") as folder:
        return save(Path(folder) / name).read_bytes()


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
"""How the answer about a picture, or a frame of a film, can be had: the media type, and the name of the file."""
FILM_FORMATS = {
    "json": ("application/json", "maps.json"),
    "npz": ("application/octet-stream", "maps.npz"),
    "overlay": ("image/gif", "overlay.gif"),
    "mp4": ("video/mp4", "overlay.mp4"),
    "everything": ("application/zip", "conceptlens.zip"),
}
"""Likewise about a film."""


def formats_of(picture: Picture, asked: Question) -> dict[str, tuple[str, str]]:
    """How the answer to a question can be had."""
    return FORMATS if picture.clip is None or asked.frame is not None else FILM_FORMATS


def in_format(session: Session, picture: Picture, asked: Question, kind: str) -> bytes:
    """An answer as the bytes of one of `formats_of`.

    Raises:
        LibraryError: for an MP4 without the extra.
    """
    maps, notes = with_notes(lambda: maps_of(session, picture, asked))
    files: dict[str, Callable[[], bytes]] = {
        "npz": lambda: _saved(maps, lambda name: name == "maps.npz"),
        "everything": lambda: _saved(maps, lambda name: True),
    }
    if isinstance(maps, VideoMaps):
        files |= {
            "json": lambda: _as_json(_told_of_film(maps, notes)),
            "overlay": lambda: _written(maps.save_gif, "overlay.gif"),
            "mp4": lambda: _written(maps.save_mp4, "overlay.mp4"),
        }
    else:
        known = {} if picture.reading is None or kind != "json" else chances(session, picture.reading, maps.asked)
        files |= {
            "json": lambda: _as_json(_told(maps, known, notes)),
            "png": lambda: _saved(maps, lambda name: name == "labels.png"),
            "overlay": lambda: png(maps.overlay()),
            "masks": lambda: _saved(maps, lambda name: name.startswith(("mask-", "cutout-", "labels", "coco"))),
            "report": lambda: maps.report().encode(),
        }
    return files[kind]()


def _as_json(told: dict[str, Any]) -> bytes:
    return json.dumps(told, ensure_ascii=False).encode()


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


def _told_of_film(maps: VideoMaps, notes: list[str]) -> dict[str, Any]:
    """For each word its share and highest score in the film, and in each frame; for the whole the rest."""
    line = maps.timeline()
    told = line.to_dict()
    words = [
        {
            "word": name,
            "share": float(share.mean()),
            "highest": float(peak.max()),
            "shares": told["concepts"][name]["share"],
            "peaks": told["concepts"][name]["peak"],
        }
        for name, share, peak in zip(maps.asked, line.share, line.peak, strict=False)
    ]
    return {
        "words": words, "rate": told["rate"], "seconds": told["seconds"], "notes": notes, "settings": maps.describe(),
    }  # fmt: skip


def about(session: Session, limits: Limits) -> dict[str, Any]:
    """What the page needs to know before it asks anything."""
    ramp = np.linspace(0, 1, HEAT_STOPS, dtype=np.float32)[None]
    reads = session.reader.frame_room({}) is not None
    film = {"reads": reads, "frames": limits.frames, "pixels": limits.film_pixels, "mp4": find_spec("av") is not None}
    return {
        **({"film": film} if is_of_films(session) else {}),
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
