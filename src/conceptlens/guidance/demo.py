"""The embedded U-Net model."""

from __future__ import annotations

from pathlib import Path

from conceptlens.readers import loading


def demo_folder() -> Path:
    """An ordinary `StableDiffusionPipeline` folder inside the package, 32x32 pixels: to try guidance offline."""
    return loading.demo_folder(loading.DEMO_UNET)
