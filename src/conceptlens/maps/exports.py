"""Masks in forms that other tools read: palette PNG, COCO run lengths and polygons, cut-outs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image

from conceptlens.maps.pictures import palette
from conceptlens.maps.positions import box_of
from conceptlens.values.errors import ImageError, LibraryError

Mask = Bool[np.ndarray, "height width"]
ABSTAINED = (128, 128, 128)
"""The colour of pixels that belong to no concept; in a palette PNG their value is 255, COCO's and VOC's "ignore"."""


def palette_image(labels: Int[np.ndarray, "height width"], count: int) -> Image.Image:
    """Labels as a picture with a palette: each pixel's value is its label, shown in the colour of `pictures.palette`.

    Args:
        labels: values from 0 to `count` - 1; -1 for none, which becomes 255.
        count: at most 255.

    Raises:
        ImageError: for more labels than a palette has colours.
    """
    if count > 255:
        raise ImageError(f"a palette PNG holds 255 labels; got {count}. Use the array in maps.npz.")
    picture = Image.fromarray(np.where(labels < 0, 255, labels).astype(np.uint8))
    colours = palette(256)
    colours[255] = ABSTAINED
    picture.putpalette(colours.tobytes(), "RGB")
    return picture


def cut_out(image: Image.Image, alpha: Mask | Float[np.ndarray, "height width"]) -> Image.Image:
    """The picture with all but the concept transparent; `alpha` is a mask, or a map in 0..1 for soft edges."""
    picture = image.convert("RGB")
    picture.putalpha(Image.fromarray(np.rint(np.asarray(alpha, np.float32) * 255).astype(np.uint8)))
    return picture


def run_lengths(mask: Mask) -> list[int]:
    """Lengths of runs of equal pixels, column by column, starting with a (possibly empty) run of zeros, as in COCO."""
    flat = mask.ravel(order="F")
    borders = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], borders, [flat.size]])).tolist()
    return [0, *lengths] if flat[0] else lengths


def encode_rle(mask: Mask) -> dict[str, Any]:
    """COCO's compressed run lengths: {"size": [height, width], "counts": text}.

    From the fourth run on, a length is stored as the difference to the one two before it; each number is cut into
    groups of five bits, lowest first, in characters from "0" on, where the sixth bit says that more follow.
    """
    lengths = run_lengths(mask)
    text = []
    for place, length in enumerate(lengths):
        rest = length - lengths[place - 2] if place > 2 else length
        more = True
        while more:
            group, rest = rest & 31, rest >> 5
            more = rest != (-1 if group & 16 else 0)
            text.append(chr(48 + group + 32 * more))
    return {"size": list(mask.shape), "counts": "".join(text)}


def decode_rle(rle: Mapping[str, Any]) -> Mask:
    """The mask of compressed run lengths.

    Raises:
        ImageError: when the lengths do not fill the size.
    """
    lengths: list[int] = []
    number = shift = 0
    for character in rle["counts"]:
        group = ord(character) - 48
        number |= (group & 31) << shift
        shift += 5
        if not group & 32:
            number -= (1 << shift) if group & 16 else 0
            lengths.append(number + lengths[-2] if len(lengths) > 2 else number)
            number = shift = 0
    height, width = rle["size"]
    if sum(lengths) != height * width or min(lengths, default=0) < 0:
        raise ImageError(f"run lengths of {sum(lengths)} pixels do not fill {height}x{width}. Encode the mask again.")
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return flat.reshape((height, width), order="F")


def polygons(mask: Mask) -> list[Float[np.ndarray, "corner 2"]]:
    """The outlines of a mask along the edges of its pixels: x and y of each corner, in pixels from the top left.

    Outer outlines run clockwise on the screen, those of holes the other way round. Filled by the even-odd rule they
    give the mask back exactly. Pixels that touch at a corner only are apart.
    """
    leaving = _directed_edges(mask)
    rings = []
    while leaving:
        start = next(iter(leaving))
        step = leaving[start][0]
        ring, point = [], start
        while True:
            choices = leaving[point]
            right = (-step[1], step[0])
            step = right if right in choices else step if step in choices else choices[0]
            choices.remove(step)
            if not choices:
                del leaving[point]
            ring.append(point)
            point = (point[0] + step[0], point[1] + step[1])
            if point == start:
                break
        rings.append(_corners(np.array(ring, np.float64)))
    return rings


def _directed_edges(mask: Mask) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """For each lattice point the directions of the boundary edges that leave it, the mask on their right."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    leaving: dict[tuple[int, int], list[tuple[int, int]]] = {}
    sides = (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (0, 1)),
        (padded[2:, 1:-1], (1, 1), (-1, 0)),
        (padded[1:-1, :-2], (0, 1), (0, -1)),
    )
    for neighbour, (dx, dy), step in sides:
        for y, x in np.argwhere(inside & ~neighbour).tolist():
            leaving.setdefault((x + dx, y + dy), []).append(step)
    return leaving


def _corners(ring: np.ndarray) -> np.ndarray:
    """A closed ring without the points on its straight stretches."""
    turns = np.any((ring - np.roll(ring, 1, 0)) != (np.roll(ring, -1, 0) - ring), axis=1)
    return ring[turns]


def ring_area(ring: Float[np.ndarray, "corner 2"]) -> float:
    """Area in pixels; negative for a hole."""
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def without_holes(mask: Mask) -> Mask:
    """The mask with its holes filled; what reaches the outside through a corner only is no hole, as in `polygons`."""
    from skimage.segmentation import flood

    return ~flood(np.pad(mask, 1), (0, 0), connectivity=2)[1:-1, 1:-1]


def coco(
    masks: Mapping[str, Mask], size: tuple[int, int], file_name: str = "image.png", *, outlines: bool = False
) -> dict[str, Any]:
    """A COCO data set of one image: a category and, where its mask is not empty, an annotation per concept.

    Args:
        masks: by concept; category numbers count from 1 in this order.
        size: width and height of the image in pixels.
        file_name: of the image.
        outlines: polygons in place of run lengths. COCO's polygons know no holes: these are filled, in `area` too. Run
            lengths are exact.
    """
    annotations = []
    for number, exact in enumerate(masks.values(), 1):
        if not exact.any():
            continue
        mask = without_holes(exact) if outlines else exact
        left, top, right, bottom = box_of(mask)
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": 1,
                "category_id": number,
                "segmentation": [ring.ravel().tolist() for ring in polygons(mask)] if outlines else encode_rle(mask),
                "area": int(mask.sum()),
                "bbox": [left, top, right - left, bottom - top],
                "iscrowd": 0,
            }
        )
    return {
        "info": {"description": "concept masks by conceptlens"},
        "images": [{"id": 1, "width": size[0], "height": size[1], "file_name": file_name}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(masks, 1)],
        "annotations": annotations,
    }


def detections(masks: Mapping[str, Mask], scores: Mapping[str, Float[np.ndarray, "height width"]]) -> Any:  # noqa: ANN401 - an optional package's
    """Masks as `supervision.Detections`: one for each concept whose mask is not empty.

    `class_id` counts the concepts from 0, `data["class_name"]` names them, `confidence` is the mean score inside the
    mask, and boxes are left, top, right, bottom in pixels, the last two exclusive.

    Args:
        masks: by concept.
        scores: by concept, at the same resolution.

    Raises:
        LibraryError: when the package `supervision` is not installed.
    """
    try:
        supervision = import_module("supervision")
    except ModuleNotFoundError as error:
        raise LibraryError("Detections need the package supervision. Install it: pip install supervision.") from error
    shown = [(number, name) for number, name in enumerate(masks) if masks[name].any()]
    if not shown:
        return supervision.Detections.empty()
    boxes = [box_of(masks[name]) for _, name in shown]
    return supervision.Detections(
        xyxy=np.array(boxes, np.float32),
        mask=np.stack([masks[name] for _, name in shown]),
        confidence=np.array([scores[name][masks[name]].mean() for _, name in shown], np.float32),
        class_id=np.array([number for number, _ in shown]),
        data={"class_name": np.array([name for _, name in shown])},
    )
