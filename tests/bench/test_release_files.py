"""Class lists and label maps in the forms that releases and programs write: right, or refused in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conceptlens.bench.datasets import dataset_named
from conceptlens.bench.datasets._class_list import read_classes
from conceptlens.bench.datasets.base import DataError, Dataset, Sample

OBJECT_INFO = (
    "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.15\t11\t11\t1\twall\n2\t0.11\t61\t61\t1\tbuilding, edifice\n"
    "3\t0.08\t87\t87\t1\tsky\n"
)
OBJECT_INFO_CSV = (
    "Idx,Ratio,Train,Val,Stuff,Name\r\n1,0.15,11,11,1,wall\r\n2,0.1,6,6,0,building;edifice\r\n3,0.08,8,8,0,sky\r\n"
)
COCO_STUFF = "0: unlabeled\n1: person\n2: bicycle\n3: car\n"
ADE = {1: "wall", 2: "building, edifice", 3: "sky"}
FORMS: list[tuple[str, dict[int, str]]] = [
    (OBJECT_INFO, ADE),
    (OBJECT_INFO_CSV, ADE),
    (COCO_STUFF, {0: "person", 1: "bicycle", 2: "car"}),
    ("0\tperson\n1\tbicycle\n", {0: "person", 1: "bicycle"}),
    ("1: accessory\n2: aeroplane\n", {1: "accessory", 2: "aeroplane"}),
    ("0 background\n3 traffic light\n", {0: "background", 3: "traffic light"}),
    ("\ufeffwall\r\nbuilding, edifice\r\n\r\nsky\r\n", {0: "wall", 1: "building, edifice", 2: "", 3: "sky"}),
    ("unlabeled\nego vehicle\n3d printer\n房子\n", {0: "", 1: "ego vehicle", 2: "3d printer", 3: "房子"}),
    ("name,id,trainId\nunlabeled,0,255\nroad,7,0\n", {0: "", 7: "road"}),
]
REFUSED = [
    ("wall\nsky\nwall\n", r"has 'wall' in line 1 and again in line 3"),
    ("0: wall\n1: sky\n1: sea\n", r"has 1 in line 2 and again in line 3"),
    (OBJECT_INFO + "3\t0.1\t1\t1\t1\tsky\n", r"has 3 in line 4 and again in line 5"),
    (OBJECT_INFO + "4\t0.1\t1\t1\n", r"line 5 of .*classes.txt is '4\\t0.1\\t1\\t1', which is no class name"),
    (OBJECT_INFO.partition("\n")[2], r"line 1 of .* is '0.15\\t11\\t11\\t1\\twall'"),
    ("0: wall\nsky\n", r"line 2 of .* is 'sky'"),
    ("wall\n7 sky\n", r"line 2 of .* is '7 sky'"),
    ("name\nwall\n", r"line 1 of .* is 'name'"),
    ("name,r,g,b\nAnimal,64,128,64\n", r"line 2 of .* is 'Animal,64,128,64'"),
    ("64 128 64\t\tAnimal\n192 0 128\t\tArchway\n", r"line 1 of .* is '128 64"),
    ("ADE_train_00000001 airport_terminal\n", r"line 1 of .* is 'ADE_train_00000001"),
    ("n01440764 tench, Tinca tinca\n", r"line 1 of .* is 'n01440764"),
    ('{"0": "wall"}\n', r"line 1 of .* is '\{"),
    ('[\n"wall",\n"sky"\n]\n', r"line 1 of .* is '\['"),
    ("person: 0\nbicycle: 1\n", r"line 1 of .* is 'person: 0'"),
    ("# names\nwall\n", r"line 1 of .* is '# names'"),
    ("\n\n", "names no class"),
    ("void\n", "names no class"),
]


@pytest.mark.parametrize(("text", "names"), FORMS)
def test_class_lists_as_they_are_released(tmp_path: Path, text: str, names: dict[int, str]) -> None:
    (tmp_path / "classes.txt").write_bytes(text.encode())
    assert read_classes(tmp_path / "classes.txt") == names


@pytest.mark.parametrize(("text", "says"), REFUSED)
def test_other_class_lists_are_refused_with_the_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=says) as raised:
        read_classes(tmp_path / "classes.txt")
    assert "\n" not in str(raised.value)


def test_a_class_list_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(b"w\xffll\n")
    with pytest.raises(DataError, match=r"cannot read .*classes.txt .*UTF-8"):
        read_classes(tmp_path / "classes.txt")


def indexed(folder: Path, classes: str, *maps: Sequence[Sequence[int]], **options: Any) -> Dataset:
    """An index-png dataset of label maps "0", "1", ..., with pictures of their sizes."""
    for inner in ("images", "annotations"):
        (folder / inner).mkdir(parents=True)
    for number, rows in enumerate(maps):
        labels = Image.fromarray(np.array(rows, np.uint8 if np.max(rows) < 256 else np.uint16))
        labels.save(folder / "annotations" / f"{number}.png")
        Image.new("RGB", labels.size).save(folder / "images" / f"{number}.jpg")
    (folder / "classes.txt").write_text(classes)
    return dataset_named("index-png").open(folder, **options)


def named(data: Dataset, sample: Sample) -> list[list[str]]:
    """A sample's labels as names."""
    return [[data.classes[n] if n >= 0 else "void" for n in row] for row in sample.labels.tolist()]


@pytest.mark.parametrize(
    ("classes", "options", "stored", "names"),
    [
        (OBJECT_INFO, {}, [0, 1, 3], ["void", "wall", "sky"]),
        (OBJECT_INFO, {"first": 1}, [0, 1, 3], ["void", "wall", "sky"]),
        (OBJECT_INFO, {"first": 0}, [255, 0, 2], ["void", "wall", "sky"]),
        (COCO_STUFF, {}, [0, 2, 255], ["person", "car", "void"]),
        (COCO_STUFF, {"first": 1}, [0, 1, 3], ["void", "person", "car"]),
        ("wall\nsky\n", {"first": 1}, [0, 1, 2], ["void", "wall", "sky"]),
        ("wall\n\nsky\n", {}, [0, 1, 2], ["wall", "void", "sky"]),
        ("wall\nvoid\nsky\n", {"void": 0}, [0, 1, 2], ["void", "void", "sky"]),
        ("\n".join(f"thing {chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(300)), {}, [255, 0, 299], None),
    ],
)
def test_numbers_in_label_maps_are_the_classes_of_the_release(
    tmp_path: Path, classes: str, options: dict[str, int], stored: list[int], names: list[str] | None
) -> None:
    data = indexed(tmp_path, classes, [stored], **options)
    sample = data.sample("0")
    expected = names or [data.classes[n] for n in stored]
    assert named(data, sample) == [expected]
    assert {data.classes[n] for n in sample.present} == set(expected) - {"void"}
    assert "void" not in data.classes


def test_a_number_behind_the_last_class_is_refused(tmp_path: Path) -> None:
    data = indexed(tmp_path, "wall\nsky\n", [[0, 1]], [[1, 2]])
    assert data.sample("0").present == (0, 1)
    with pytest.raises(DataError, match=r"1.png holds 2; the last number of classes.txt is 1 \(void: 255\).* first="):
        data.sample("1")


def test_masks_are_no_label_maps(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotations/0.png and all others hold nothing but 0 and 255: masks"):
        indexed(tmp_path / "a", "wall\nsky\n", [[0, 255]], [[0, 0]])
    assert indexed(tmp_path / "b", "wall\nsky\n", [[0, 255]], [[0, 1]]).sample("0").labels.tolist() == [[0, -1]]
    assert indexed(tmp_path / "c", "wall\nsky\n", [[0, 255]], void=255).sample("0").labels.tolist() == [[0, -1]]


@pytest.mark.parametrize("options", [{"first": -1}, {"void": -1}])
def test_numbers_that_are_none(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=f"{next(iter(options))} is a number in the label maps, 0 or more; got"):
        indexed(tmp_path, "wall\n", [[0]], **options)


def test_label_maps_of_another_size_or_without_a_label_are_refused_everywhere(tmp_path: Path) -> None:
    data = indexed(tmp_path / "index", "wall\nsky\n", [[0, 1]], [[255, 255]], [[0, 1]])
    Image.new("RGB", (4, 3)).save(tmp_path / "index/images/0.jpg")
    Image.new("RGB", (2, 1)).save(tmp_path / "index/annotations/2.png")
    with pytest.raises(DataError, match="label map of 0 is 2x1 pixels, its image 4x3. Make them equal"):
        data.sample("0")
    with pytest.raises(DataError, match="1.png has no labelled pixel"):
        data.sample("1")
    with pytest.raises(DataError, match=r"2.png has colours \(RGB\)"):
        data.sample("2")
    base = tmp_path / "VOCdevkit/VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / folder).mkdir(parents=True)
    (base / "ImageSets/Segmentation/val.txt").write_text("small\nempty\n")
    for name, size in (("small", (8, 8)), ("empty", (16, 8))):
        Image.new("RGB", (16, 8)).save(base / "JPEGImages" / f"{name}.jpg")
        Image.new("L", size, 255 if name == "empty" else 3).save(base / "SegmentationClass" / f"{name}.png")
    voc = dataset_named("voc-multi").open(tmp_path)
    with pytest.raises(DataError, match="label map of small is 8x8 pixels, its image 16x8"):
        voc.sample("small")
    with pytest.raises(DataError, match="label map of empty is all void"):
        voc.sample("empty")


def targets(folder: Path, *masks: Image.Image) -> Dataset:
    """A dataset "folder" of masks cat-0, cat-1, ..., with pictures of their sizes."""
    for inner in ("images", "masks"):
        (folder / inner).mkdir(parents=True)
    for number, mask in enumerate(masks):
        mask.save(folder / "masks" / f"cat-{number}.png")
        Image.new("RGB", mask.size).save(folder / "images" / f"cat-{number}.tif")
    return dataset_named("folder").open(folder)


def with_palette(rows: Sequence[Sequence[int]], *colours: tuple[int, int, int]) -> Image.Image:
    mask = Image.fromarray(np.array(rows, np.uint8), "P")
    mask.putpalette([value for colour in colours for value in colour])
    return mask


BLACK, WHITE, BLUE = (0, 0, 0), (255, 255, 255), (0, 0, 128)


def test_a_mask_with_a_palette_counts_by_its_colours(tmp_path: Path) -> None:
    rows = [[1, 1, 0], [1, 2, 1]]
    data = targets(
        tmp_path,
        with_palette(rows, WHITE, BLACK, WHITE),
        with_palette(rows, BLACK, WHITE, BLUE),
        with_palette([[0, 0]], WHITE, BLACK),
        Image.fromarray(np.array(rows, np.uint8)),
        Image.fromarray(np.array(rows, bool)),
        Image.fromarray(np.array(rows, np.uint16) * 256),
    )
    white = [data.sample(id_).labels.tolist() for id_ in data.ids()]
    assert white[:3] == [[[0, 0, 1], [0, 1, 0]], [[1, 1, 0], [1, 1, 1]], [[1, 1]]]
    assert white[3:] == [[[1, 1, 0], [1, 1, 1]]] * 3


def test_masks_that_mark_nothing_or_everything_are_refused(tmp_path: Path) -> None:
    data = targets(
        tmp_path,
        Image.new("L", (4, 3)),
        with_palette([[0, 1]], WHITE, BLUE),
        Image.new("RGB", (4, 3), "white"),
        with_palette([[0, 1]], BLACK, BLACK),
    )
    for id_, says in [
        ("cat-0", "cat-0.png is all black: it marks no target"),
        ("cat-1", "cat-1.png has a palette without black"),
        ("cat-2", r"cat-2.png has colours \(RGB\)"),
        ("cat-3", "cat-3.png is all black"),
    ]:
        with pytest.raises(DataError, match=says):
            data.sample(id_)


def test_a_mask_is_of_one_picture(tmp_path: Path) -> None:
    targets(tmp_path, Image.new("L", (4, 3), 255))
    Image.new("RGB", (4, 3)).save(tmp_path / "images/cat-0.png")
    with pytest.raises(DataError, match=r"cat-0.png and .*cat-0.tif share the mask .*cat-0.png"):
        dataset_named("folder").open(tmp_path)


def test_pictures_are_turned_as_their_masks_are_drawn(tmp_path: Path) -> None:
    drawn = np.zeros((40, 24), np.uint8)
    drawn[:16, :8] = 255
    data = targets(tmp_path, Image.fromarray(drawn))
    exif = Image.Exif()
    exif[0x0112] = 6
    shown = np.stack([255 - drawn, 255 - drawn, drawn], -1)
    Image.fromarray(np.rot90(shown, 1)).save(tmp_path / "images/cat-0.tif", exif=exif)
    sample = data.sample("cat-0")
    assert sample.image.size == (24, 40)
    assert np.asarray(sample.image)[sample.labels == 1].mean(0).tolist() == [0, 0, 255]


def test_two_synsets_of_one_name_are_one_target(tmp_path: Path) -> None:
    from test_datasets import write_gtsegs

    pictures = [np.zeros((4, 4, 3), np.uint8)] * 3
    ids = ["n02012849_1", "n03126707_1", "n02084071_1"]
    write_gtsegs(tmp_path / "gtsegs_ijcv.mat", pictures, [np.ones((4, 4), np.uint8)] * 3, ids)
    (tmp_path / "names.json").write_text('{"n02012849": "crane", "n03126707": "crane"}')
    data = dataset_named("imagenet-seg").open(tmp_path, names=str(tmp_path / "names.json"))
    assert data.classes == ("crane", "dog")
    assert [data.sample(id_).present for id_ in data.ids()] == [(0,), (0,), (1,)]
