"""Data sets in their released layouts, in small: the right masks, what is ignored, and one line for what is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from conceptlens.bench.datasets import dataset_named
from conceptlens.bench.datasets._coco import mask_of, names_of
from conceptlens.bench.datasets.base import DataError
from conceptlens.maps.exports import encode_rle, run_lengths

PHOTOS = Path(__file__).parents[3] / "shared" / "photos"


def picture(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path)


def index_png(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels.astype(np.uint8)).save(path)


CATEGORIES = [
    {"id": 1, "name": "person", "isthing": 1},
    {"id": 44, "name": "bottle", "isthing": 1},
    {"id": 184, "name": "tree-merged", "isthing": 0},
    {"id": 171, "name": "wall-brick", "isthing": 0},
]
SEGMENTS = {1: 70_000, 2: 300, 3: 5}  # numbers that need all three colours
STORED = np.array([[1, 1, 2, 0], [1, 3, 2, 2]])


@pytest.fixture
def panoptic(tmp_path: Path) -> Path:
    numbers = np.vectorize(lambda segment: SEGMENTS.get(segment, 0))(STORED)
    colours = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], axis=-1)
    index_png(tmp_path / "annotations" / "panoptic_val2017" / "000000000139.png", colours)
    picture(tmp_path / "val2017" / "000000000139.jpg", (4, 2))
    kinds = {1: 184, 2: 1, 3: 171}
    content = {
        "images": [{"id": 139, "file_name": "000000000139.jpg", "width": 4, "height": 2}],
        "annotations": [
            {
                "image_id": 139,
                "file_name": "000000000139.png",
                "segments_info": [{"id": SEGMENTS[n], "category_id": kind, "iscrowd": 0} for n, kind in kinds.items()],
            }
        ],
        "categories": CATEGORIES,
    }
    (tmp_path / "annotations" / "panoptic_val2017.json").write_text(json.dumps(content))
    return tmp_path


def test_coco_panoptic(panoptic: Path) -> None:
    data = dataset_named("coco-panoptic").open(panoptic)
    assert data.classes == ("person", "bottle", "tree", "brick wall")
    assert list(data.ids()) == ["000000000139"]
    sample = data.sample("000000000139")
    assert sample.labels.tolist() == [[2, 2, 0, -1], [2, 3, 0, 0]]
    assert sample.present == (0, 2, 3)
    assert sample.image.size == (4, 2)


def test_damage_in_coco_panoptic_is_one_line(panoptic: Path) -> None:
    file = panoptic / "annotations" / "panoptic_val2017.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["segments_info"].pop()
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="139.png holds 5, which is the number of no class"):
        dataset_named("coco-panoptic").open(panoptic).sample("000000000139")
    content["annotations"][0]["segments_info"][0]["category_id"] = 999
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="a segment of 000000000139 .* has no known category"):
        dataset_named("coco-panoptic").open(panoptic).sample("000000000139")
    file.write_text('{"images": [], "categories": []}')
    with pytest.raises(DataError, match="has no list of annotations"):
        dataset_named("coco-panoptic").open(panoptic)
    file.write_text("{")
    with pytest.raises(DataError, match=r"cannot read .*panoptic_val2017\.json"):
        dataset_named("coco-panoptic").open(panoptic)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no ../shared/photos with COCO's panoptic masks")
def test_real_photographs_with_coco_panoptic_masks() -> None:
    """Areas of all segments are those that COCO's file states, and all 133 names differ."""
    data = dataset_named("coco-panoptic").open(PHOTOS)
    content = json.loads((PHOTOS / "panoptic.json").read_text())
    assert (len(data.ids()), len(data.classes)) == (23, 133)
    assert {"tree", "wall", "brick wall", "wood floor", "window blind", "teddy bear"} <= set(data.classes)
    places = {category["id"]: place for place, category in enumerate(content["categories"])}
    for annotation in content["annotations"][:6]:
        sample = data.sample(annotation["file_name"][:-4])
        areas: dict[int, int] = {}
        for segment in annotation["segments_info"]:
            place = places[segment["category_id"]]
            areas[place] = areas.get(place, 0) + segment["area"]
        assert {place: int((sample.labels == place).sum()) for place in sample.present} == areas


def test_names_stay_apart_where_their_endings_alone_differ() -> None:
    told = [{"id": 3, "name": "rug-merged"}, {"id": 1, "name": "rug"}, {"id": 7, "name": "floor-other-merged"}]
    assert names_of(told, Path("x")) == {3: "rug-merged", 1: "rug", 7: "floor"}
    with pytest.raises(DataError, match="the 2 categories in x are not all different"):
        names_of([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], Path("x"))


def test_masks_of_coco_in_all_three_forms() -> None:
    mask = np.zeros((5, 6), bool)
    mask[1:4, 2:5] = True
    forms: list[Any] = [
        [[2, 1, 5, 1, 5, 4, 2, 4]],
        [[2, 1, 4, 1, 4, 4, 2, 4], [4, 1, 5, 1, 5, 4, 4, 4]],
        {"size": [5, 6], "counts": run_lengths(mask)},
        encode_rle(mask),
    ]
    for form in forms:
        assert np.array_equal(mask_of({"id": 1, "segmentation": form}, (6, 5)), mask)
    with pytest.raises(DataError, match="the mask of annotation 9 is 6x5 pixels, its image 6x6"):
        mask_of({"id": 9, "segmentation": forms[3]}, (6, 6))
    for damaged in ({"size": [5, 6], "counts": [3]}, {"counts": "0"}, [[1, 2, 3]], "text"):
        with pytest.raises(DataError, match="annotation 9 has a damaged mask"):
            mask_of({"id": 9, "segmentation": damaged}, (6, 5))


def box(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


@pytest.fixture
def instances(tmp_path: Path) -> Path:
    crowd = np.zeros((4, 6), bool)
    crowd[3] = True
    content = {
        "images": [
            {"id": 139, "file_name": "000000000139.jpg", "width": 6, "height": 4},
            {"id": 285, "file_name": "000000000285.jpg", "width": 6, "height": 4},
        ],
        "annotations": [
            {"id": 1, "image_id": 139, "category_id": 44, "iscrowd": 0, "segmentation": box(0, 0, 3, 2)},
            {"id": 2, "image_id": 139, "category_id": 1, "iscrowd": 0, "segmentation": box(2, 0, 4, 2)},
            {"id": 3, "image_id": 139, "category_id": 44, "iscrowd": 0, "segmentation": box(5, 0, 6, 1)},
            {
                **{"id": 4, "image_id": 139, "category_id": 44, "iscrowd": 1},
                "segmentation": {"size": [4, 6], "counts": run_lengths(crowd)},
            },
        ],
        "categories": CATEGORIES[:2],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    for image in content["images"]:
        picture(tmp_path / "val2017" / image["file_name"], (6, 4))
    return tmp_path


def test_coco_object_has_a_background_and_the_later_object_on_top(instances: Path) -> None:
    data = dataset_named("coco-object").open(instances)
    assert data.classes == ("background", "person", "bottle")
    assert list(data.ids()) == ["139", "285"]
    sample = data.sample("139")
    assert sample.labels.tolist() == [[2, 2, 1, 1, 0, 2], [2, 2, 1, 1, 0, 0], [0] * 6, [2] * 6]
    assert sample.present == (1, 2)
    assert data.sample("285").present == ()


def test_coco_instances_are_all_objects_of_a_category_with_crowds_void(instances: Path) -> None:
    data = dataset_named("coco-instances").open(instances)
    assert list(data.ids()) == ["139/bottle", "139/person"]
    sample = data.sample("139/bottle")
    assert sample.labels.tolist() == [[1, 1, 1, 0, 0, 1], [1, 1, 1, 0, 0, 0], [0] * 6, [-1] * 6]
    assert [data.classes[place] for place in sample.present] == ["bottle"]


def test_damage_in_coco_instances_is_one_line(instances: Path) -> None:
    file = instances / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    (instances / "val2017" / "000000000285.jpg").write_bytes(b"torn")
    with pytest.raises(DataError, match="cannot read the image"):
        dataset_named("coco-object").open(instances).sample("285")
    content["annotations"][0]["category_id"] = 90
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="has annotations of category 90, which it does not name"):
        dataset_named("coco-object").open(instances)
    del content["annotations"][0]["image_id"]
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="an entry in .* has no .*image_id"):
        dataset_named("coco-object").open(instances)


@pytest.fixture
def ade(tmp_path: Path) -> Path:
    base = tmp_path / "ADEChallengeData2016"
    names = ["wall", "building, edifice", "screen, silver screen", "screen door, screen", "screen, CRT screen"]
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    lines += [f"{number}\t0.1\t10\t1\t1\t{name}" for number, name in enumerate(names, 1)]
    base.mkdir()
    (base / "objectInfo150.txt").write_text("\n".join(lines) + "\n")
    index_png(base / "annotations/validation/ADE_val_00000001.png", np.array([[0, 1, 2], [3, 4, 5]]))
    picture(base / "images/validation/ADE_val_00000001.jpg", (3, 2))
    return tmp_path


@pytest.mark.parametrize("inside", [False, True])
def test_ade20k_counts_from_one_and_ignores_the_rest(ade: Path, inside: bool) -> None:
    data = dataset_named("ade20k").open(ade / "ADEChallengeData2016" if inside else ade)
    assert data.classes == ("wall", "building", "screen, silver screen", "screen door", "screen, CRT screen")
    sample = data.sample(data.ids()[0])
    assert sample.labels.tolist() == [[-1, 0, 1], [2, 3, 4]]
    assert sample.present == (0, 1, 2, 3, 4)


def test_damage_in_ade20k_is_one_line(ade: Path) -> None:
    base = ade / "ADEChallengeData2016"
    index_png(base / "annotations/validation/ADE_val_00000001.png", np.array([[0, 1, 9], [3, 4, 5]]))
    with pytest.raises(DataError, match="ADE_val_00000001.png holds 9, which is the number of no class"):
        dataset_named("ade20k").open(ade).sample("ADE_val_00000001")
    (base / "objectInfo150.txt").unlink()
    with pytest.raises(DataError, match="ade20k looked for objectInfo150.txt"):
        dataset_named("ade20k").open(ade)


@pytest.fixture
def streets(tmp_path: Path) -> Path:
    stored = np.array([[0, 7, 8], [33, 26, 1], [23, 24, 255]])
    index_png(tmp_path / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png", stored)
    index_png(tmp_path / "gtFine/val/lindau/lindau_000000_000019_gtFine_instanceIds.png", stored)
    picture(tmp_path / "leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png", (3, 3))
    return tmp_path


def test_cityscapes_evaluates_nineteen_of_its_numbers(streets: Path) -> None:
    data = dataset_named("cityscapes").open(streets)
    assert len(data.classes) == 19
    assert list(data.ids()) == ["lindau/lindau_000000_000019"]
    sample = data.sample("lindau/lindau_000000_000019")
    named = [[data.classes[place] if place >= 0 else "" for place in row] for row in sample.labels.tolist()]
    assert named == [["", "road", "sidewalk"], ["bicycle", "car", ""], ["sky", "person", ""]]


def test_damage_in_cityscapes_is_one_line(streets: Path) -> None:
    path = streets / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png"
    index_png(path, np.full((3, 3), 77))
    with pytest.raises(DataError, match="labelIds.png holds 77, which is the number of no class"):
        dataset_named("cityscapes").open(streets).sample("lindau/lindau_000000_000019")
    index_png(path, np.zeros((3, 3)))
    with pytest.raises(DataError, match="is all void: no pixel has a label"):
        dataset_named("cityscapes").open(streets).sample("lindau/lindau_000000_000019")


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "trainval").mkdir()
    stored = np.array([[2, 2, 284], [0, 397, 1]], np.uint16)
    savemat(tmp_path / "trainval" / "2008_000002.mat", {"LabelMap": stored})
    (tmp_path / "labels.txt").write_text("1: accordion\n2: aeroplane\n284: pottedplant\n397: tvmonitor\n")
    (tmp_path / "59_labels.txt").write_text("1: aeroplane\n2: tvmonitor\n3: pottedplant\n")
    voc = tmp_path / "VOCdevkit" / "VOC2010"
    picture(voc / "JPEGImages" / "2008_000002.jpg", (3, 2))
    (voc / "ImageSets" / "Main").mkdir(parents=True)
    (voc / "ImageSets" / "Main" / "val.txt").write_text("2008_000002\n2008_000003\n")
    return tmp_path


def test_pascal_context_ignores_all_but_its_classes(context: Path) -> None:
    data = dataset_named("pascal-context").open(context)
    assert data.classes == ("aeroplane", "tv monitor", "potted plant")
    assert list(data.ids()) == ["2008_000002"]
    assert data.sample("2008_000002").labels.tolist() == [[0, 0, 2], [-1, 1, -1]]


def test_damage_in_pascal_context_is_one_line(context: Path) -> None:
    path = context / "trainval" / "2008_000002.mat"
    savemat(path, {"Other": np.zeros((2, 3))})
    with pytest.raises(DataError, match=r"cannot read the label map .*2008_000002\.mat .*LabelMap"):
        dataset_named("pascal-context").open(context).sample("2008_000002")
    path.write_bytes(b"torn")
    with pytest.raises(DataError, match="cannot read the label map"):
        dataset_named("pascal-context").open(context).sample("2008_000002")
    (context / "59_labels.txt").write_text("1: unicorn\n")
    with pytest.raises(DataError, match="names 'unicorn', and labels.txt does not"):
        dataset_named("pascal-context").open(context)
    path.unlink()
    (context / "59_labels.txt").write_text("1: aeroplane\n")
    with pytest.raises(DataError, match="none of the 2 images of val.txt has a label map"):
        dataset_named("pascal-context").open(context)
