"""ImageNet-Segmentation: 4,276 images with foreground masks (Guillaumin et al., IJCV 2014), `gtsegs_ijcv.mat`.

The file is MATLAB v7.3, that is HDF5: `/value/img`, `/value/gt` and `/value/id` are columns of object references, and
MATLAB stores arrays column by column, so every picture comes transposed. `gt` is a cell per image; its first
annotation is used, as in the official scripts.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from conceptlens.bench.datasets import register
from conceptlens.bench.datasets.base import DataError, Dataset, Sample, require
from conceptlens.values.errors import one_line

if TYPE_CHECKING:
    pass

FILE = "gtsegs_ijcv.mat"


@register
class ImageNetSegmentation(Dataset):
    """One target per image, named by WordNet, or by a table of names (`names=`)."""

    name = "imagenet-seg"
    summary = "ImageNet-Segmentation, 4,276 images, one foreground each (gtsegs_ijcv.mat)"
    task = "single"
    source = "Get gtsegs_ijcv.mat (7 GB) from https://calvin-vision.net/datasets/imagenet-segmentation/."

    def __init__(self, path: Path, names: Mapping[str, str]) -> None:
        self._path, self._names = path, names
        self._file: Mapping[Any, Any] | None = None
        self._ids = [f"{number:04d}-{name}" for number, name in enumerate(self._stored_ids())]

    @classmethod
    def open(cls, root: Path | None, *, names: str | Path | None = None, **options: Any) -> ImageNetSegmentation:
        """`names`: a JSON file, synset ("n02119789") to name, or the official class map with its `categories`."""
        if root is not None and root.is_file():
            root = root.parent
        return cls(require(root, FILE, cls), {} if names is None else _read_names(Path(names)))

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for name in map(self._named, self._ids) if name))

    def ids(self) -> Sequence[str]:
        return self._ids

    def sample(self, id_: str) -> Sample:
        number = int(id_.partition("-")[0])
        try:
            pixels = self._entry("img", number).transpose(2, 1, 0)
            cell = self._entry("gt", number)
            labels = np.asarray(self._open()[cell[0, 0]]).transpose(1, 0)
        except (OSError, KeyError, ValueError, AttributeError, IndexError) as error:
            raise DataError(f"image {id_} of {self._path} is damaged ({one_line(error)}). Restore the file.") from error
        target = self.classes.index(self._target(id_))
        return Sample(id_, Image.fromarray(pixels, "RGB"), (labels > 0).astype(np.int32), (target,))

    def _named(self, id_: str) -> str | None:
        synset = _synset(id_)
        return self._names.get(synset) or wordnet_names().get(synset)

    def _target(self, id_: str) -> str:
        name = self._named(id_)
        if name is None:
            raise DataError(
                f"synset {_synset(id_)!r} of image {id_} has no name. Give a table of names with names=FILE."
            )
        return name

    def _stored_ids(self) -> list[str]:
        try:
            count = len(self._open()["value"]["id"])
            return ["".join(map(chr, self._entry("id", number).ravel())) for number in range(count)]
        except (OSError, KeyError, ValueError, AttributeError) as error:
            raise DataError(
                f"{self._path} is not the expected file: /value/id cannot be read ({one_line(error)}). {self.source}"
            ) from error

    def _open(self) -> Mapping[Any, Any]:
        # Opened on first use, so that a copy of the dataset can travel to another process.
        if self._file is None:
            try:
                import h5py
            except ImportError as error:
                raise DataError("reading gtsegs_ijcv.mat needs h5py: pip install 'conceptlens[bench]'.") from error
            self._file = h5py.File(self._path, "r")
        return self._file

    def _entry(self, name: str, number: int) -> np.ndarray:
        """The array of one image in a column of object references."""
        file = self._open()
        return np.asarray(file[file["value"][name][number, 0]])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


def _synset(id_: str) -> str:
    return id_.partition("-")[2].partition("_")[0]


@cache
def wordnet_names() -> dict[str, str]:
    """Synset, as in "n02119789", to its first lemma, as in "kit fox" (WordNet 3.0)."""
    packed = (files("conceptlens") / "assets" / "wordnet-nouns.tsv.gz").read_bytes()
    rows = (line.split("\t") for line in gzip.decompress(packed).decode().splitlines())
    return {f"n{offset}": name for offset, name in rows}


def _read_names(path: Path) -> dict[str, str]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the names in {path} ({one_line(error)}). Give a JSON file.") from error
    if not isinstance(table, dict):
        raise DataError(f"{path} must hold a JSON object of synsets and names.")
    inner = table.get("categories", table)
    if not isinstance(inner, dict) or not all(isinstance(v, str) for v in inner.values()):
        raise DataError(f"{path} must map synsets such as n02119789 to names such as fox.")
    return inner
