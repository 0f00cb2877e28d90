"""What DAAM and OVAM share: an open U-Net pipeline, their settings, and a reading with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image

from conceptlens.maps.picture_files import open_image
from conceptlens.methods._options import plain
from conceptlens.methods.base import MethodInfo, SaliencyMethod
from conceptlens.readers.unet_inputs import UnetOptions
from conceptlens.readers.unets import UnetReader, load_unet
from conceptlens.values.errors import ModelError
from conceptlens.values.models import Pipeline
from conceptlens.values.options import options_of
from conceptlens.values.records import ImageRecord


class UnetMethod(SaliencyMethod):
    """A method on an open Stable Diffusion XL or 2 pipeline, with settings of `kind`."""

    kind: ClassVar[type[UnetOptions]] = UnetOptions
    info = MethodInfo(text_conditioned=True, backbone="stabilityai/stable-diffusion-xl-base-1.0")

    def __init__(self, model: object, **options: Any) -> None:
        """On an open pipeline; `options` are the fields of `kind`.

        Raises:
            ModelError: for anything but a U-Net pipeline from `load_unet`.
            RecipeError: for impossible settings.
        """
        if not isinstance(model, UnetReader):
            raise ModelError(f"{self.name} runs on a U-Net pipeline; got a {type(model).__name__}. Open it with load.")
        self._reader, self._options = model, options_of(self.kind, options)

    @classmethod
    def load(
        cls,
        model: str | Path | Pipeline | None = None,
        *,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> UnetMethod:
        options_of(cls.kind, options)
        return cls(load_unet(model or cls.info.backbone, device=device, dtype=dtype), **options)

    @property
    def model_id(self) -> str:
        return self._reader.model_id

    @property
    def settings(self) -> Mapping[str, Any]:
        return plain(self._options)

    def store(self, image: str | Path | Image.Image, *, prompt: str = "", seed: int = 0) -> ImageRecord:
        """Shows the image to the U-Net with `prompt`, once per sample, and keeps the queries of every layer."""
        settings, reader = self._options, self._reader
        recipe = reader.base_recipe.override({"samples": settings.samples}).resolve(reader.depth)
        look = {"size": settings.size, "timestep": settings.timestep}
        return reader.read(open_image(image), prompt, recipe, seed, look)
