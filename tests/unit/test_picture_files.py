"""One opener for the benchmark, the library and the judges: the same file is the same picture everywhere."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from conceptlens.bench.datasets.base import open_picture
from conceptlens.maps.picture_files import open_image
from conceptlens.values.errors import ImageError
from conceptlens.values.pictures import MIN_SIDE, PICTURES

RAMP = np.tile(np.linspace(0, 1, 96), (64, 1))


def saved(path: Path, picture: Image.Image, **options: Any) -> Path:
    picture.save(path, **options)
    return path


def turned(path: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(path, Image.new("RGB", (40, 24), "blue"), exif=exif)


def files(folder: Path) -> dict[str, tuple[Path, np.ndarray]]:
    """Files, and the red channel of what they show."""
    clear = Image.new("RGBA", (24, 16), (0, 0, 0, 0))
    no_data = RAMP.astype(np.float32)
    no_data[:, 80:] = np.nan
    no_data[:, 79] = np.inf
    shown = np.where(np.isnan(no_data), 0, np.clip(no_data, 0, 1) * 255)
    return {
        "turned": (turned(folder / "turned.jpg"), np.zeros((40, 24))),
        "16 bits": (saved(folder / "deep.png", Image.fromarray((RAMP * 65535).astype(np.uint16))), RAMP * 255),
        "floats": (saved(folder / "float.tiff", Image.fromarray(no_data)), shown),
        "clear": (saved(folder / "clear.png", clear), np.full((16, 24), 255)),
        "palette": (saved(folder / "clear.gif", clear.convert("P"), transparency=0), np.full((16, 24), 255)),
    }


@pytest.mark.filterwarnings("error")
def test_the_benchmark_sees_what_the_library_sees(tmp_path: Path) -> None:
    for name, (path, red) in files(tmp_path).items():
        for opened in (open_image(path), open_picture(path)):
            assert opened.mode == "RGB", name
            assert opened.size == red.shape[::-1], name
            assert np.abs(np.asarray(opened)[..., 0] - red).max() <= 2, name


def test_every_ending_that_a_folder_may_have_can_be_opened(tmp_path: Path) -> None:
    for ending in PICTURES:
        if ending == ".avif" and not features.check("avif"):
            continue
        path = saved(tmp_path / f"green{ending}", Image.new("RGB", (32, 24), (20, 160, 60)))
        assert np.abs(np.asarray(open_image(path)).mean((0, 1)) - (20, 160, 60)).max() < 4, ending


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_files_cut_off_anywhere_are_refused_on_purpose(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8))
    for ending in (".png", ".webp", ".avif", ".tif", ".bmp"):
        if ending == ".avif" and not features.check("avif"):
            continue
        whole = saved(tmp_path / f"noise{ending}", noise).read_bytes()
        for length in range(0, len(whole) - 8, max(1, len(whole) // 60)):
            (tmp_path / f"cut{ending}").write_bytes(whole[:length])
            with suppress(ImageError):
                open_image(tmp_path / f"cut{ending}")


def test_only_what_a_model_reads_has_a_smallest_size(tmp_path: Path) -> None:
    path = saved(tmp_path / "small.png", Image.new("RGB", (MIN_SIDE - 1, MIN_SIDE)))
    assert open_picture(path).size == (MIN_SIDE - 1, MIN_SIDE)
    with pytest.raises(ImageError, match="small.png is 7x8 pixels; sides from 8"):
        open_image(path)
