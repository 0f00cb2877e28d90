"""The model's own pictures: painted by its plain pipeline, stored as they come, so that none is painted twice."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from conceptlens.bench.checkup.collages import Cell
from conceptlens.bench.checkup.plan import Plan
from conceptlens.bench.scorer import image_seed
from conceptlens.maps.picture_files import open_image
from conceptlens.readers.painting import check_known, refusals
from conceptlens.readers.text_side import text_encoders
from conceptlens.session import Session
from conceptlens.values.errors import ModelError, OutputError, one_line

FLAT = 2.0
"""Levels of 255 that a picture's pixels differ by, as a standard deviation, below which it shows nothing at all."""


class Studio:
    """Paints cells, or opens them where they were painted before.

    Args:
        session: the model.
        plan: what to paint.
        folder: for the pictures.
    """

    def __init__(self, session: Session, plan: Plan, folder: Path) -> None:
        self._session, self._plan, self._folder = session, plan, folder
        self._call = {**session.generate_defaults, **plan.call}

    def file(self, cell: Cell) -> Path:
        """Where a picture is stored."""
        return self._folder / f"{self._plan.nouns.index(cell.noun):03d}-{cell.number}.png"

    def picture(self, cell: Cell) -> Image.Image:
        """A cell, painted unless it is stored.

        Raises:
            ModelError: for a model that paints no picture of a prompt alone.
            OutputError: when the picture cannot be stored.
            RecipeError: for keywords that the pipeline refuses.
        """
        path = self.file(cell)
        if path.exists():
            return open_image(path)
        painted = self._paint(cell)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix(".tmp")
            painted.save(aside, format="PNG")
            aside.replace(path)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or one_line(error)}. Make room there.") from error
        return painted

    def _paint(self, cell: Cell) -> Image.Image:
        pipeline = self._session.pipeline
        seed = image_seed(self._plan.seed, str(cell.number))  # one for all nouns; see `extents`
        arguments = {
            **self._call,
            "prompt": self._plan.prompt(cell.noun),
            "generator": torch.Generator("cpu").manual_seed(seed),
        }
        check_known(pipeline, arguments)
        if "output_type" in inspect.signature(pipeline.__call__).parameters:
            arguments["output_type"] = "pil"
        with refusals(pipeline, "--offload"), torch.no_grad(), text_encoders(pipeline):
            output = pipeline(**arguments)
        return first_picture(output)


def first_picture(output: Any) -> Image.Image:  # noqa: ANN401 - each pipeline has a class of outputs of its own
    """The first picture of a pipeline's output; of a video its middle frame.

    Raises:
        ModelError: for an output without pictures.
    """
    shown = output.images if hasattr(output, "images") else getattr(output, "frames", None)
    while isinstance(shown, (list, tuple)) and len(shown):
        shown = shown[len(shown) // 2 if isinstance(shown[0], Image.Image) else 0]
    if not isinstance(shown, Image.Image):
        raise ModelError(f"{type(output).__name__} holds no picture. Use a pipeline that paints pictures of a text.")
    return shown.convert("RGB")


def share_of_flat(pictures: Sequence[Image.Image]) -> float:
    """How many of some pictures, 0..1, are of one colour."""
    spreads = [np.asarray(picture, np.float32).std(axis=(0, 1)).max() for picture in pictures]
    return float(np.mean([spread < FLAT for spread in spreads]))
