"""The files of a labelled data set, out of the rows of its run: equal rows, equal bytes."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image

from conceptlens.labels.card import data_card
from conceptlens.maps.exports import ABSTAINED, decode_rle, palette_image
from conceptlens.maps.pictures import PAPER, contact_sheet, palette, tint
from conceptlens.values.errors import OutputError
from conceptlens.values.files import into_folder, write_text

Row = Mapping[str, Any]
Labels = Int[np.ndarray, "height width"]
UNLABELLED = -1
SHOWN, TILE = 12, 256
"""Pictures on the contact sheet, and the side of a tile in pixels."""


def picture_file(id_: str) -> str:
    """Where a picture of the data set is, within its folder."""
    return f"images/{id_}.png"


def labels_file(id_: str) -> str:
    """Where the label map of a picture is, within the folder of the data set."""
    return f"annotations/{id_}.png"


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file aside and renames it, so that it is whole whenever it is there.

    Raises:
        OutputError: when it cannot be written.
    """
    aside = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}. Make room, then repeat the command.") from error


def categories_of(rows: Iterable[Row], words: Sequence[str] | None) -> tuple[str, ...]:
    """The words of the data set, each once; the first has number 1, since 0 is the background.

    Args:
        rows: of the run, in order.
        words: those that were looked for in every picture; None for those that have a label, as they come.
    """
    labelled = (each["word"] for row in rows if row.get("kept") for each in row["annotations"])
    return tuple(dict.fromkeys(labelled if words is None else words))


def write_dataset(folder: Path, rows: Sequence[Row], header: Mapping[str, Any], reasons: Mapping[str, int]) -> None:
    """Writes what other tools read; the pictures are there already.

    `annotations/*.png` (values of `coco.json`'s categories, 0 for background words, 255 for pixels without a label),
    `images/metadata.jsonl` (the imagefolder format of Hugging Face datasets), `coco.json`, `classes.txt`,
    `rejected.csv`, `sheet.png` and the data card `README.md`.

    Args:
        folder: of the data set.
        rows: of its run, in order.
        header: what `run.json` says.
        reasons: by gate, how many words it rejected.

    Raises:
        OutputError: when it cannot be written.
    """
    kept = [row for row in rows if row.get("kept")]
    categories = categories_of(rows, header["settings"]["words"])
    for row in kept:
        picture = label_picture(label_map(row, categories), len(categories))
        replace_file(folder / labels_file(row["id"]), _png(picture))
    lines = "".join(json.dumps(_metadata(row, categories), ensure_ascii=False) + "\n" for row in kept)
    replace_file(folder / "images" / "metadata.jsonl", lines.encode())
    with into_folder(folder) as stage:
        write_text(stage / "coco.json", json.dumps(coco_of(kept, categories), ensure_ascii=False) + "\n")
        write_text(stage / "classes.txt", "".join(f"{n}: {name}\n" for n, name in enumerate(("", *categories))))
        write_text(stage / "rejected.csv", _rejected(rows))
        write_text(stage / "README.md", data_card(rows, categories, header, reasons))
        if kept:
            sheet_of(folder, kept, categories).save(stage / "sheet.png")


def coco_of(rows: Sequence[Row], categories: Sequence[str]) -> dict[str, Any]:
    """COCO's instances format with run lengths; pictures and annotations are numbered from 1 in the order of rows."""
    numbers = {name: number for number, name in enumerate(categories, 1)}
    images, annotations = [], []
    for number, row in enumerate(rows, 1):
        width, height = row["size"]
        images.append({"id": number, "width": width, "height": height, "file_name": picture_file(row["id"])})
        for each in row["annotations"]:
            shape = {name: value for name, value in each.items() if name != "word"}
            about = {"id": len(annotations) + 1, "image_id": number, "category_id": numbers[each["word"]]}
            annotations.append({**about, **shape})
    return {
        "info": {"description": "masks by conceptlens; see README.md"},
        "images": images,
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
        "annotations": annotations,
    }


def label_map(row: Row, categories: Sequence[str]) -> Labels:
    """The number of each pixel's category; 0 for background words, -1 for pixels without a label."""
    labels = np.where(decode_rle(row["unlabelled"]), UNLABELLED, 0)
    for each in row["annotations"]:
        labels[decode_rle(each["segmentation"])] = categories.index(each["word"]) + 1
    return labels


def label_picture(labels: Labels, count: int) -> Image.Image:
    """Labels as a palette PNG, 255 for none; from 255 categories on as 16 bits, 65535 for none."""
    if count < 255:
        return palette_image(labels, count + 1)
    return Image.fromarray(np.where(labels < 0, 65535, labels).astype(np.uint16))


def sheet_of(folder: Path, rows: Sequence[Row], categories: Sequence[str]) -> Image.Image:
    """Pictures of the data set, evenly spread over it, each beside its labels."""
    count = min(SHOWN, len(rows))
    tiles = []
    for row in (rows[number * len(rows) // count] for number in range(count)):
        with Image.open(folder / picture_file(row["id"])) as opened:
            picture = opened.convert("RGB")
        labels = label_map(row, categories)
        colours = palette(256)[labels % 256]
        colours[labels < 0] = ABSTAINED
        words = ", ".join(each["word"] for each in row["annotations"])
        shown = tint(picture, colours, np.full(labels.shape, 0.75, np.float32))
        tiles += [(words, _tile(picture)), ("segmentation", _tile(shown))]
    return contact_sheet(tiles, min(6, len(tiles)), legend=("background", *categories))


def _tile(picture: Image.Image) -> Image.Image:
    """Any picture in one square, as large as it fits."""
    scale = TILE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    tile = Image.new("RGB", (TILE, TILE), PAPER)
    small = picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    tile.paste(small, ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return tile


def _metadata(row: Row, categories: Sequence[str]) -> dict[str, Any]:
    """A line of `metadata.jsonl`: the picture, where it came from, and its boxes as datasets has them."""
    return {
        "file_name": f"{row['id']}.png",
        "annotation": labels_file(row["id"]),
        "text": row["text"],
        "objects": {
            "bbox": [each["bbox"] for each in row["annotations"]],
            "category": [categories.index(each["word"]) + 1 for each in row["annotations"]],
            "name": [each["word"] for each in row["annotations"]],
        },
    }


def _rejected(rows: Iterable[Row]) -> str:
    """Every rejected word of every picture with its gate and its reason, and pictures that gave an error."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("id", "picture", "word", "gate", "reason"))
    for row in rows:
        if "error" in row:
            table.writerow((row["id"], "rejected", "", "error", row["error"]))
            continue
        for word in row["words"]:
            for gate, reason in word["rejected"].items():
                table.writerow((row["id"], "kept" if row["kept"] else "rejected", word["word"], gate, reason))
    return text.getvalue()


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
