"""The embedded U-Net model."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def demo_folder() -> Path:
    """An ordinary `StableDiffusionPipeline` folder inside the package, 32x32 pixels: to try guidance offline."""
    return Path(str(files("conceptlens") / "assets" / "demo-unet"))
