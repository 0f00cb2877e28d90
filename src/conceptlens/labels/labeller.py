"""Labeller: a picture is painted or read, its words are mapped, measured and gated: one row. Made once per process."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image, ImageOps

from conceptlens._version import package_version
from conceptlens.bench.scorer import PACKAGES, image_seed
from conceptlens.labels.gates import overlap
from conceptlens.labels.plan import LabelError, LabelSpec
from conceptlens.maps.exports import coco, encode_rle
from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.maps.picture_files import open_image
from conceptlens.presence import calibrated_reading, presence
from conceptlens.session import Session, load
from conceptlens.values.errors import ConceptError, ImageError, ScoreError
from conceptlens.values.records import ImageRecord
from conceptlens.values.words import check_concepts

Row = dict[str, Any]
Winners = Int[np.ndarray, "height width"]
PICTURE = "picture"
"""The field of a row that holds the picture itself, as a PNG in base64; it is taken out before the row is stored."""
_BAD = (ImageError, ConceptError, ScoreError)
"""What a picture or a prompt may do to its own row; anything else ends the run."""


@dataclass(frozen=True)
class _Picture:
    """A picture, what to look for in it, and maps where it was painted with them."""

    image: Image.Image
    asked: tuple[str, ...]
    maps: ConceptMaps | None = None


@dataclass(frozen=True)
class _Seen:
    """A picture and what its words are measured by.

    Attributes:
        image: RGB.
        asked: all words that were looked for.
        chances: by word, that it is in the picture; None for "cannot say".
        maps: of the words that compete; None when none is there.
        mirrored: the winners of the mirrored picture, mirrored back; None where the model cannot read pictures.
    """

    image: Image.Image
    asked: tuple[str, ...]
    chances: Mapping[str, float | None]
    maps: ConceptMaps | None
    mirrored: Winners | None


class Labeller:
    """Ids in, rows out; all engines use it.

    Args:
        spec: what to label.
        session: an open one, in place of opening the spec's model.
    """

    def __init__(self, spec: LabelSpec, session: Session | None = None) -> None:
        self.spec = spec
        self.session = session or load(spec.model, device=spec.device)
        self.session.pipeline.set_progress_bar_config(disable=True)
        self.session.require("generate" if spec.paints else "read")
        self._recipe = self.session.recipe(spec.preset, **spec.reading)
        usual = self.session.reader.defaults.background if spec.background else ()
        self._background = usual if isinstance(spec.background, bool) else spec.background
        self._reads = "read" in self.session.can

    @property
    def settings(self) -> dict[str, Any]:
        """Everything a row depends on, apart from the picture."""
        spec = self.spec
        call = {name: value for name, value in spec.painting.items() if name not in spec.reading}
        return {
            "task": "label",
            **spec.source(),
            "model": self.session.model_id,
            "maps": "while painting" if spec.paints and not self._reads_paintings else "a reading of each picture",
            "words": None if spec.words is None else list(spec.words),
            "background": list(self._background),
            "recipe": self._recipe.to_dict(),
            "painting": {**self.session.generate_defaults, **call} if spec.paints else {},
            "seed": spec.seed,
            "gates": asdict(spec.gates),
            "edges": spec.edges,
            "abstain": spec.abstain,
        }

    def header(self, command: str) -> dict[str, Any]:
        """What else to note about a run; may change between its starts."""
        return {
            "command": command,
            "device": self.spec.device or "default",
            "versions": {name: package_version(name) for name in PACKAGES},
        }

    def rows(self, ids: Sequence[str]) -> list[Row]:
        """The rows of pictures that are read together; one that cannot be labelled gives a row with its `error`."""
        rows: dict[str, Row] = {}
        pictures: dict[str, _Picture] = {}
        for id_ in ids:
            try:
                pictures[id_] = self._painted(id_) if self.spec.paints else self._opened(id_)
            except _BAD as error:
                rows[id_] = {"id": id_, "error": str(error)}
        try:
            for id_, seen in self._look(pictures).items():
                rows[id_] = self._row(id_, seen)
        except _BAD as error:
            if len(ids) > 1:  # one of them is bad; the others are as good as alone
                return [row for id_ in ids for row in self.rows([id_])]
            rows[ids[0]] = {"id": ids[0], "error": str(error)}
        return [rows[id_] for id_ in ids]

    @property
    def _reads_paintings(self) -> bool:
        return self._reads and not self.spec.while_painting

    def _opened(self, id_: str) -> _Picture:
        spec = self.spec
        assert spec.images is not None
        return _Picture(open_image(Path(spec.images) / spec.pictures[id_]), check_concepts(spec.words_of(id_) or ()))

    def _painted(self, id_: str) -> _Picture:
        spec = self.spec
        maps: object = self.session.generate(
            spec.text(id_),
            spec.words_of(id_),
            seed=image_seed(spec.seed, id_),
            preset=spec.preset,
            background=self._background or False,
            **spec.painting,
        )
        if not isinstance(maps, ConceptMaps):
            raise LabelError(f"{self.session.model_id} paints no single picture, and only those can be labelled.")
        return _Picture(maps.image, maps.asked, None if self._reads_paintings else self._refined(maps))

    def _look(self, pictures: Mapping[str, _Picture]) -> dict[str, _Seen]:
        """Readings of all pictures and of all mirrored ones, then what is measured of each."""
        plain = self._records({id_: each.image for id_, each in pictures.items() if each.maps is None})
        mirrored = self._records({id_: ImageOps.mirror(each.image) for id_, each in pictures.items()})
        seen = {}
        for id_, each in pictures.items():
            chances = self._chances(each.image, plain.get(id_), each.asked)
            # A word that is not there would take pixels from the others: a record is asked without it.
            there = tuple(word for word in each.asked if each.maps or not self._absent(chances[word]))
            maps = each.maps or (self._probe(plain[id_], there) if there else None)
            other = self._probe(mirrored[id_], there) if there and id_ in mirrored else None
            winners = None if other is None else np.fliplr(other.segmentation())
            seen[id_] = _Seen(each.image, each.asked, chances, maps, winners)
        return seen

    def _records(self, images: Mapping[str, Image.Image]) -> dict[str, ImageRecord]:
        """Readings of some pictures at once; none by a model that cannot read."""
        if not images or not self._reads:
            return {}
        seeds = [image_seed(self.spec.seed, id_) for id_ in images]
        options = {"preset": self.spec.preset, "seed": seeds, "batch": len(images), **self.spec.reading}
        return dict(zip(images, self.session.read(list(images.values()), **options), strict=True))

    def _chances(self, image: Image.Image, record: ImageRecord | None, words: Sequence[str]) -> dict[str, float | None]:
        seen = calibrated_reading(self.session, image, record) if self._reads else None
        if seen is None:
            return dict.fromkeys(words)
        return {each.concept: each.chance for each in presence(self.session, seen, words)}

    def _absent(self, chance: float | None) -> bool:
        return chance is not None and chance < self.spec.gates.presence

    def _probe(self, record: ImageRecord, words: Sequence[str]) -> ConceptMaps:
        """Maps of words that compete with the background, as far as that is not among them."""
        others = tuple(word for word in self._background if word not in words)
        return self._refined(self.session.probe(record, words, background=others or False))

    def _refined(self, maps: ConceptMaps) -> ConceptMaps:
        return maps.refined(edges=self.spec.edges, abstain=self.spec.abstain)

    def _row(self, id_: str, seen: _Seen) -> Row:
        """What was measured of each word, and the masks of those that passed, as run lengths."""
        winners = None if seen.maps is None else seen.maps.segmentation()
        doubts = None if seen.maps is None else seen.maps.doubt()
        words, masks, empty = [], {}, np.zeros(seen.image.size[::-1], bool)
        unsure = empty if winners is None else winners < 0
        for word in seen.asked:
            measured: dict[str, Any] = {"presence": seen.chances[word]}
            mask = empty
            if seen.maps is not None and winners is not None and doubts is not None and word in seen.maps:
                number = seen.maps.concepts.index(word)
                mask = winners == number
                measured["area"] = float(mask.mean())
                measured["doubt"] = float(doubts[mask].mean()) if mask.any() else None
                measured["flip"] = None if seen.mirrored is None else overlap(mask, seen.mirrored == number)
            measured = {name: None if value is None else round(value, 4) for name, value in measured.items()}
            reasons = self.spec.gates.reasons(measured)
            words.append({"word": word, **measured, "rejected": reasons})
            if not reasons and mask.any():
                masks[word] = mask
            unsure = unsure | (mask if reasons else False)
        return self._finished(id_, seen, words, masks, unsure)

    def _finished(
        self, id_: str, seen: _Seen, words: list[Row], masks: dict[str, np.ndarray], unsure: np.ndarray
    ) -> Row:
        spec, kept = self.spec, self.spec.gates.passes(len(masks), len(seen.asked))
        row: Row = {
            "id": id_,
            "text": spec.text(id_),
            "seed": image_seed(spec.seed, id_),
            "size": list(seen.image.size),
            "words": words,
            "kept": kept,
        }
        if not kept:
            return row
        names, found = list(masks), coco(masks, seen.image.size)["annotations"]
        row["annotations"] = [
            {"word": names[each["category_id"] - 1]}
            | {name: each[name] for name in ("segmentation", "area", "bbox", "iscrowd")}
            for each in found
        ]
        row["unlabelled"] = encode_rle(unsure)
        row[PICTURE] = _png(seen.image)
        return row


def _png(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
