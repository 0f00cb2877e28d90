"""Pictures larger than a model's own size, read in overlapping windows.

A reading shrinks a picture to the size that the model was trained on, and what is small there has few patches or none.
Windows of that size keep them; each is read as a picture of its own, so that a thing larger than a window is seen in
parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.maps.picture_files import open_image
from conceptlens.ops.windows import stitched, window_starts
from conceptlens.session import Session
from conceptlens.values.errors import RecipeError, shown
from conceptlens.values.records import ImageRecord, TokenGrid

UNITS = 16
"""Windows begin at multiples of this part of their side, so that their patches are those of one grid."""


@dataclass(frozen=True)
class WindowsRecord:
    """What `probe_windows` needs to ask a picture for concepts.

    Attributes:
        image: the picture, in its own size.
        side: of the windows, in pixels of the picture as it was read.
        units: rows and columns of the whole picture, in sixteenths of a window's side.
        corners: of each window, in the same unit.
        records: of each window.
    """

    image: Image.Image
    side: int
    units: tuple[int, int]
    corners: tuple[tuple[int, int], ...]
    records: tuple[ImageRecord, ...]


def read_windows(
    session: Session, image: str | Path | Image.Image, side: int, *, overlap: float = 0.5, **options: Any
) -> WindowsRecord:
    """Looks once at each window of a picture. One of `side` x `side` pixels has a single window: the plain reading.

    Args:
        session: the model.
        image: a path or a picture. Sides below `side` are enlarged to it, others rounded to sixteenths of it.
        side: of the windows, in pixels: that of the pictures which the model is at home with (FLUX.1: 1024).
        overlap: share of a window, 0 to below 1, that neighbours have in common at least.
        **options: of `Session.read`.

    Raises:
        RecipeError: for an impossible side or overlap, or one whose patches are no multiple of 16.
        ImageError: for an image that cannot be read.
    """
    if isinstance(side, bool) or not isinstance(side, int) or side < UNITS or side % UNITS:
        raise RecipeError(f"the side of windows is a multiple of {UNITS} pixels; got {shown(side)}.")
    if not 0 <= overlap < 1:
        raise RecipeError(f"overlap is a share of a window, from 0 to below 1; got {shown(overlap)}.")
    picture = open_image(image)
    unit, scale = side // UNITS, max(1.0, side / min(picture.size))
    cols, rows = (max(UNITS, round(length * scale / unit)) for length in picture.size)
    size = (cols * unit, rows * unit)
    large = picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)
    across = window_starts(cols, UNITS, overlap)
    corners = tuple((row, col) for row in window_starts(rows, UNITS, overlap) for col in across)
    records = []
    for row, col in corners:
        window = large.crop((col * unit, row * unit, col * unit + side, row * unit + side))
        records.append(session.read(window, **options))
        _check_patches(records[0].grid, side)
    return WindowsRecord(picture, side, (rows, cols), corners, tuple(records))


def _check_patches(grid: TokenGrid, side: int) -> None:
    if grid.rows != grid.cols or grid.rows % UNITS:
        raise RecipeError(
            f"windows need a multiple of {UNITS} patches a side; of {side} pixels this model makes {grid.rows} x "
            f"{grid.cols}. Use read, which takes any."
        )


def probe_windows(session: Session, record: WindowsRecord, concepts: Sequence[str], **options: Any) -> ConceptMaps:
    """Maps of the whole picture, without running the model: means over windows, which count less near their sides.

    Args:
        session: the model that read the windows.
        record: from `read_windows`.
        concepts: any words.
        **options: of `Session.probe`, but `keep`.

    Raises:
        RecipeError: for settings that need more than was recorded.
    """
    if options.pop("keep", False):
        raise RecipeError("windows keep no scores of steps and layers. Drop keep, or probe one of record.records.")
    each = [session.probe(window, concepts, **options) for window in record.records]
    side = each[0].scores.shape[-1]
    factor = side // UNITS
    corners = [(row * factor, col * factor) for row, col in record.corners]
    rows, cols = (count * factor for count in record.units)
    spreads = [maps.spread for maps in each if maps.spread is not None]
    settings = {"side": record.side, "corners": [list(corner) for corner in record.corners]}
    return replace(
        each[0],
        run_info=replace(each[0].run_info, method="windows", settings=settings),
        image=record.image,
        scores=stitched([maps.scores for maps in each], corners, rows, cols),
        spread=stitched(spreads, corners, rows, cols) if spreads else None,
    )
