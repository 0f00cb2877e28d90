"""Tracks: instances of concepts followed through a film, and the files that trackers and their benchmarks read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image, ImageDraw, ImageFont

from conceptlens.maps.exports import encode_rle, polygons
from conceptlens.maps.films import save_film, write_gif
from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.maps.links import Link, Mask, linked
from conceptlens.maps.pictures import palette
from conceptlens.maps.positions import box_of, place_of
from conceptlens.ops.grids import Threshold
from conceptlens.values.clips import Clip
from conceptlens.values.errors import ConceptError
from conceptlens.values.files import into_folder, write_text

_SHOWN = 256
"""Pixels of the larger side up to which small frames are enlarged, so that numbers can be read."""


@dataclass(frozen=True, eq=False)
class Track:
    """One instance of a concept, in the frames that show it.

    Attributes:
        number: from 1, in the order in which tracks begin; no two of a film are alike.
        concept: what it is an instance of.
        frames: numbers of the frames that show it, from 0, rising; it may have been out of sight in between.
        masks: where it is in each of them.
        boxes: left, top, right and bottom in pixels, the last two exclusive, in each of them.
        scores: the mean score of the concept inside each mask.
    """

    number: int
    concept: str
    frames: tuple[int, ...]
    masks: Bool[np.ndarray, "seen height width"]
    boxes: tuple[tuple[int, int, int, int], ...]
    scores: tuple[float, ...]

    def mask(self, frame: int) -> Bool[np.ndarray, "height width"]:
        """Where it is in a frame; empty where the frame does not show it."""
        if frame not in self.frames:
            return np.zeros(self.masks.shape[1:], bool)
        return self.masks[self.frames.index(frame)]

    def __repr__(self) -> str:
        return f"<Track {self.number} of {self.concept} in {len(self.frames)} frames from {self.frames[0]}>"


@dataclass(frozen=True, eq=False)
class Tracks:
    """All tracks of some concepts in one film.

    Attributes:
        tracks: by their numbers.
        concepts: those that were followed.
        clip: the film.
    """

    tracks: tuple[Track, ...]
    concepts: tuple[str, ...]
    clip: Clip

    def __len__(self) -> int:
        return len(self.tracks)

    def __iter__(self) -> Iterator[Track]:
        return iter(self.tracks)

    def __getitem__(self, number: int) -> Track:
        """The track of a number. Raises a `ConceptError` for a number that there is not."""
        for track in self.tracks:
            if track.number == number:
                return track
        known = ", ".join(str(track.number) for track in self.tracks) or "none"
        raise ConceptError(f"no track {number}. This film has: {known}.")

    def __repr__(self) -> str:
        return f"<Tracks of {', '.join(self.concepts)}: {len(self)} in {len(self.clip)} frames>"

    def labels(self) -> Int[np.ndarray, "frame height width"]:
        """For each pixel of each frame the number of the track that is there; 0 for none."""
        width, height = self.clip.size
        labels = np.zeros((len(self.clip), height, width), np.int32)
        for track in self.tracks:
            for frame, mask in zip(track.frames, track.masks, strict=True):
                labels[frame][mask] = track.number
        return labels

    def coco(self, file_names: Sequence[str] | None = None) -> dict[str, Any]:
        """A YouTube-VIS data set of one film: an annotation per track, whose lists have an entry per frame.

        An entry is None where the frame does not show it. Masks are COCO's run lengths, exact.

        Args:
            file_names: of the frames; those that `save` writes when None.
        """
        (width, height), length = self.clip.size, len(self.clip)
        size = {"width": width, "height": height, "length": length}
        names = [_file_name(frame) for frame in range(length)] if file_names is None else list(file_names)
        annotations = []
        for track in self.tracks:
            masks = [track.mask(frame) if frame in track.frames else None for frame in range(length)]
            annotations.append(
                {
                    "id": track.number,
                    "video_id": 1,
                    "category_id": self.concepts.index(track.concept) + 1,
                    "segmentations": [None if mask is None else encode_rle(mask) for mask in masks],
                    "areas": [None if mask is None else int(mask.sum()) for mask in masks],
                    "bboxes": [None if mask is None else list(_left_top_size(box_of(mask))) for mask in masks],
                    "iscrowd": 0,
                    **size,
                }
            )
        return {
            "info": {"description": "tracks of concepts by conceptlens"},
            "videos": [{"id": 1, **size, "file_names": names}],
            "categories": [{"id": number, "name": name} for number, name in enumerate(self.concepts, 1)],
            "annotations": annotations,
        }

    def mot(self) -> str:
        """MOTChallenge's text: a line "frame, id, left, top, width, height, confidence, -1, -1, -1" for each box.

        Frames, numbers and pixels count from 1 there. The confidence is the mean score inside the mask.
        """
        lines = []
        for track in self.tracks:
            for frame, box, score in zip(track.frames, track.boxes, track.scores, strict=True):
                left, top, width, height = _left_top_size(box)
                line = f"{frame + 1},{track.number},{left + 1},{top + 1},{width},{height},{score:.4f},-1,-1,-1"
                lines.append((frame, track.number, line))
        return "".join(f"{line}\n" for *_, line in sorted(lines))

    def outlined(self) -> list[Image.Image]:
        """The frames with the outline and the number of each track in its colour; small frames are enlarged."""
        width, height = self.clip.size
        scale = max(1, _SHOWN // max(width, height))
        sheets = [image.resize((width * scale, height * scale), Image.Resampling.NEAREST) for image in self.clip.frames]
        pens, font = [ImageDraw.Draw(sheet) for sheet in sheets], ImageFont.load_default(15)
        colours = palette(min(256, 1 + max((track.number for track in self.tracks), default=0))).tolist()
        for track in self.tracks:
            colour = tuple(colours[(track.number - 1) % len(colours)])
            for frame, mask in zip(track.frames, track.masks, strict=True):
                for ring in polygons(mask):
                    corners = [tuple(corner) for corner in (scale * np.vstack([ring, ring[:1]])).tolist()]
                    pens[frame].line(corners, fill=colour, width=max(2, scale // 2), joint="curve")
                centre = place_of(mask).centroid
                assert centre is not None
                place = (centre[0] * scale, centre[1] * scale)
                ink = {"font": font, "anchor": "mm", "stroke_width": 2, "stroke_fill": colour}
                pens[frame].text(place, str(track.number), fill=(255, 255, 255), **ink)
        return sheets

    def save_gif(self, file: str | Path, *, rate: float | int | None = None) -> Path:
        """Writes the outlined frames as a GIF, `rate` of them a second; the film's own when None.

        Raises:
            OutputError: for another ending or an impossible rate, or when the file cannot be written.
        """
        shown = self.clip.rate if rate is None else rate
        return save_film(file, ".gif", lambda place: write_gif(self.outlined(), place, shown))

    def save(self, folder: str | Path) -> Path:
        """Writes `tracks.json` (YouTube-VIS, with its frames beside it), `tracks.txt` (MOTChallenge) and `tracks.gif`.

        Raises:
            OutputError: when the folder cannot be written.
        """
        with into_folder(folder) as stage:
            for frame, image in enumerate(self.clip.frames):
                image.save(stage / _file_name(frame))
            write_text(stage / "tracks.json", json.dumps(self.coco()) + "\n")
            write_text(stage / "tracks.txt", self.mot())
            write_gif(self.outlined(), stage / "tracks.gif", self.clip.rate)
        return Path(folder)


def follow(
    frames: Sequence[ConceptMaps],
    clip: Clip,
    concepts: Sequence[str],
    link: Link,
    threshold: Threshold | None,
    smallest: float,
) -> Tracks:
    """Instances of each concept (`ConceptMaps.instances`) in every frame, linked; instances of two are never one."""
    found: list[tuple[str, dict[int, Mask], dict[int, float]]] = []
    for concept in concepts:
        parts = [maps.instances(concept, threshold, smallest=smallest) for maps in frames]
        instances = linked(parts, link, smallest)
        found += [(concept, *both) for both in zip(instances, _scores(frames, concept, instances), strict=True)]
    found.sort(key=lambda track: min(track[1]))
    tracks = []
    for number, (concept, masks, scores) in enumerate(found, 1):
        seen = sorted(masks)
        boxes = tuple(box_of(masks[frame]) for frame in seen)
        whole = np.stack([masks[frame] for frame in seen])
        tracks.append(Track(number, concept, tuple(seen), whole, boxes, tuple(scores[frame] for frame in seen)))
    return Tracks(tuple(tracks), tuple(concepts), clip)


def _scores(
    frames: Sequence[ConceptMaps], concept: str, instances: Sequence[dict[int, Mask]]
) -> list[dict[int, float]]:
    """The mean score of a concept inside each mask of each instance."""
    means: list[dict[int, float]] = [{} for _ in instances]
    for frame, maps in enumerate(frames):
        pixels = maps.pixels()[maps.concepts.index(concept)].numpy()
        for mean, masks in zip(means, instances, strict=True):
            if frame in masks:
                mean[frame] = float(pixels[masks[frame]].mean())
    return means


def _file_name(frame: int) -> str:
    return f"frame-{frame:03d}.png"


def _left_top_size(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = box
    return left, top, right - left, bottom - top
