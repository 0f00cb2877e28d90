"""A folder, a hub id or a pipeline: to the reader that its kind of model takes."""

from __future__ import annotations

from typing import Any

from conceptlens.families import registered
from conceptlens.readers.base import Reader
from conceptlens.readers.cross import layout_of, load_cross
from conceptlens.readers.loading import classes_of, load_model
from conceptlens.readers.text_streams import reader_of
from conceptlens.readers.unets import SUPPORTED, load_unet


def open_reader(model: object, **options: Any) -> Reader[Any]:
    """Opens a model by its kind.

    Args:
        model: see `load_model`; "demo-unet" for the embedded U-Net.
        **options: see `load_model`.

    Raises:
        ModelError: when it cannot be loaded, or nothing reads models of its kind.
    """
    pipeline_class, model_class = classes_of(model)
    if pipeline_class in SUPPORTED:
        return load_unet(model, **options)
    if layout_of(model_class) is not None and model_class not in registered():
        return load_cross(model, **options)
    return reader_of(load_model(model, **options))
