"""COCO's annotation files: what their parts are called, and masks out of polygons and run lengths."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from skimage.draw import polygon

from conceptlens.bench.datasets.base import DataError
from conceptlens.maps.exports import decode_rle
from conceptlens.values.errors import ImageError, one_line

Mask = Bool[np.ndarray, "height width"]
_ENDINGS = ("-merged", "-other", "-stuff")


def read_annotations(path: Path, parts: Sequence[str]) -> dict[str, Any]:
    """The content of a file that has all of these `parts`, lists of objects.

    Raises:
        DataError: for a damaged file, or one that lacks a part.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path} ({one_line(error)}). Restore the file.") from error
    for part in parts:
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(f"{path} has no list of {part}, as a file of COCO's format has. Restore the file.")
    return content


def names_of(categories: Sequence[Mapping[str, Any]], path: Path) -> dict[int, str]:
    """The word to ask for by the number of each category, in the order of the file.

    What COCO adds to keep names apart is left out: "tree-merged" is tree, "floor-other-merged" floor, "wall-brick"
    brick wall; but where that would give two categories one name.

    Raises:
        DataError: when a category has no number or no name, or shares them.
    """
    try:
        stored = {int(each["id"]): str(each["name"]) for each in categories}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"a category in {path} has no id or no name. Restore the file.") from error
    words = {number: _word(name) for number, name in stored.items()}
    every = list(words.values())
    words = {number: word if every.count(word) == 1 else stored[number] for number, word in words.items()}
    if len(stored) != len(categories) or len(set(words.values())) != len(words) or not words:
        raise DataError(f"the {len(categories)} categories in {path} are not all different. Restore the file.")
    return words


def _word(name: str) -> str:
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    first, dash, kind = name.partition("-")
    return f"{kind} {first}" if dash and first in ("wall", "floor") else name.replace("-", " ")


def mask_of(annotation: Mapping[str, Any], size: tuple[int, int]) -> Mask:
    """The mask of an annotation in a picture of (width, height): polygons, run lengths, or packed run lengths.

    A pixel belongs to a polygon when its centre is inside. COCO's own code also counts pixels that an edge only
    touches, so that masks of polygons are up to a pixel wider there.

    Raises:
        DataError: when it is none of these, or of another size.
    """
    width, height = size
    shape, number = annotation.get("segmentation"), annotation.get("id")
    try:
        if isinstance(shape, dict):
            mask = _runs(shape["counts"], shape["size"])
        else:
            mask = np.zeros((height, width), bool)
            for ring in shape or ():
                x, y = np.asarray(ring, float).reshape(-1, 2).T
                mask[polygon(y - 0.5, x - 0.5, (height, width))] = True
    except (ImageError, KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"annotation {number} has a damaged mask ({one_line(error)}). Restore the file.") from error
    if mask.shape != (height, width):
        found = f"{mask.shape[1]}x{mask.shape[0]}"
        raise DataError(f"the mask of annotation {number} is {found} pixels, its image {width}x{height}.")
    return mask


def _runs(counts: str | Sequence[int], size: Sequence[int]) -> Mask:
    """Run lengths, column by column from the first run of zeros on, as numbers or packed as text."""
    if isinstance(counts, str):
        return decode_rle({"counts": counts, "size": size})
    height, width = size
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape((height, width), order="F")
