"""Readers against small files of the layouts that the releases have, written here."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from conceptlens.bench.datasets import UnknownDatasetError, dataset_named, registered
from conceptlens.bench.datasets.base import DataError
from conceptlens.bench.datasets.imagenet_seg import wordnet_names
from conceptlens.bench.datasets.scenes import make_scene

RNG = np.random.default_rng(0)


def write_gtsegs(path: Path, images: list[np.ndarray], masks: list[np.ndarray], names: list[str]) -> None:
    """MATLAB v7.3: columns of references; arrays column by column; the masks inside cells; text as numbers."""
    with h5py.File(path, "w") as file:
        value = file.create_group("value")
        hidden = file.create_group("#refs#")

        def column(name: str, targets: list[h5py.Dataset]) -> None:
            made = value.create_dataset(name, (len(targets), 1), dtype=h5py.ref_dtype)
            for row, target in enumerate(targets):
                made[row, 0] = target.ref

        arrays = [hidden.create_dataset(f"i{n}", data=a.transpose(2, 1, 0)) for n, a in enumerate(images)]
        column("img", arrays)
        cells = []
        for number, mask in enumerate(masks):
            inner = hidden.create_dataset(f"m{number}", data=mask.transpose(1, 0))
            cell = hidden.create_dataset(f"c{number}", (1, 1), dtype=h5py.ref_dtype)
            cell[0, 0] = inner.ref
            cells.append(cell)
        column("gt", cells)
        texts = [np.array([[ord(c)] for c in name], np.uint16) for name in names]
        column("id", [hidden.create_dataset(f"n{n}", data=t) for n, t in enumerate(texts)])


@pytest.fixture
def gtsegs(tmp_path: Path) -> tuple[Path, list[np.ndarray], list[np.ndarray]]:
    images = [RNG.integers(0, 255, (6, 9, 3), np.uint8), RNG.integers(0, 255, (5, 4, 3), np.uint8)]
    masks = [(RNG.random(i.shape[:2]) < 0.5).astype(np.uint8) for i in images]
    write_gtsegs(tmp_path / "gtsegs_ijcv.mat", images, masks, ["n02119789_1", "n02084071_12"])
    return tmp_path, images, masks


def test_imagenet_segmentation(gtsegs: tuple[Path, list[np.ndarray], list[np.ndarray]]) -> None:
    root, images, masks = gtsegs
    data = dataset_named("imagenet-seg").open(root)
    assert data.ids() == ["0000-n02119789_1", "0001-n02084071_12"]
    for number, id_ in enumerate(data.ids()):
        sample = data.sample(id_)
        assert np.array_equal(np.asarray(sample.image), images[number])
        assert np.array_equal(sample.labels, masks[number])
    assert data.classes == ("kit fox", "dog")
    assert data.sample(data.ids()[0]).present == (0,)
    again = pickle.loads(pickle.dumps(data))
    assert again.sample(data.ids()[1]).present == (1,)


def test_names_of_your_own(gtsegs: tuple[Path, list[np.ndarray], list[np.ndarray]], tmp_path: Path) -> None:
    names = tmp_path / "map.json"
    names.write_text(json.dumps({"categories": {"n02119789": "fox", "n02084071": "animal"}}))
    data = dataset_named("imagenet-seg").open(gtsegs[0], names=str(names))
    assert data.classes == ("fox", "animal")
    names.write_text("[]")
    with pytest.raises(DataError, match="must hold a JSON object"):
        dataset_named("imagenet-seg").open(gtsegs[0], names=str(names))


def test_a_synset_without_a_name_spoils_its_own_image_only(tmp_path: Path) -> None:
    pictures = [RNG.integers(0, 255, (4, 4, 3), np.uint8)] * 2
    write_gtsegs(tmp_path / "gtsegs_ijcv.mat", pictures, [np.ones((4, 4), np.uint8)] * 2, ["n02119789_1", "n1_2"])
    data = dataset_named("imagenet-seg").open(tmp_path)
    assert data.classes == ("kit fox",)
    assert data.sample("0000-n02119789_1").present == (0,)
    with pytest.raises(DataError, match="synset 'n1' of image 0001-n1_2 has no name"):
        data.sample("0001-n1_2")


def test_a_synset_without_a_name_and_a_foreign_file(tmp_path: Path) -> None:
    write_gtsegs(tmp_path / "gtsegs_ijcv.mat", [np.zeros((4, 4, 3), np.uint8)], [np.zeros((4, 4), np.uint8)], ["n1_2"])
    data = dataset_named("imagenet-seg").open(tmp_path)
    with pytest.raises(DataError, match="synset 'n1' of image 0000-n1_2 has no name"):
        data.sample("0000-n1_2")
    (tmp_path / "gtsegs_ijcv.mat").write_bytes(b"nothing")
    with pytest.raises(DataError, match="is not the expected file"):
        dataset_named("imagenet-seg").open(tmp_path)


def test_wordnet_names_hold_imagenet() -> None:
    names = wordnet_names()
    assert len(names) > 21_000
    assert (names["n02084071"], names["n02121808"], names["n04555897"]) == ("dog", "domestic cat", "watch")


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    base = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / folder).mkdir(parents=True)
    stored = {
        "one": np.array([[0, 8, 255], [0, 8, 8]]),
        "two": np.array([[0, 8, 12], [0, 8, 12]]),
        "filled": np.array([[8, 8, 12], [8, 255, 12]]),
        "none": np.array([[0, 0, 255], [0, 0, 0]]),
    }
    for name, labels in stored.items():
        picture = np.kron(labels, np.ones((20, 20))).astype(np.uint8)
        image = Image.fromarray(picture, "P")
        image.putpalette([v for i in range(256) for v in (i, 255 - i, 7)])
        image.save(base / "SegmentationClass" / f"{name}.png")
        Image.new("RGB", image.size, "red").save(base / "JPEGImages" / f"{name}.jpg")
    (base / "ImageSets/Segmentation/val.txt").write_text("\n".join(stored) + "\n")
    return tmp_path


def test_voc_multi(voc: Path) -> None:
    data = dataset_named("voc-multi").open(voc)
    assert list(data.ids()) == ["one", "two", "filled", "none"]
    sample = data.sample("two")
    assert sample.present == (8, 12)
    assert data.classes[8] == "cat"
    assert (sample.labels[0, 20], sample.labels[0, 40]) == (8, 12)
    assert (data.sample("one").labels[0, 40:] == -1).all()
    assert data.sample("none").present == ()


def test_voc_single_split_is_the_official_one(voc: Path) -> None:
    data = dataset_named("voc-single").open(voc / "VOCdevkit")
    # "filled" has two classes and no background: the official rule lets it pass, and both count as the foreground.
    assert list(data.ids()) == ["one", "filled"]
    sample = data.sample("one")
    assert data.classes[sample.present[0]] == "cat"
    assert set(np.unique(sample.labels)) == {-1, 0, 1}
    assert data.classes[data.sample("filled").present[0]] == "cat"


def test_opening_voc_single_reads_no_label_map(voc: Path) -> None:
    data = dataset_named("voc-single").open(voc)
    labels = voc / "VOCdevkit/VOC2012/SegmentationClass"
    (labels / "two.png").write_bytes((labels / "one.png").read_bytes())
    assert list(data.ids()) == ["one", "two", "filled"]


def test_index_png_with_classes_and_void(tmp_path: Path) -> None:
    for folder in ("images/val", "annotations/val"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (3, 2)).save(tmp_path / "images/val/a.jpg")
    Image.fromarray(np.array([[0, 1, 2], [2, 1, 255]], np.uint8)).save(tmp_path / "annotations/val/a.png")
    (tmp_path / "classes.txt").write_text("0: wall\n1: floor\n")
    data = dataset_named("index-png").open(tmp_path, first=1)
    sample = data.sample("val/a")
    assert data.classes == ("wall", "floor")
    assert sample.labels.tolist() == [[-1, 0, 1], [1, 0, -1]]
    assert sample.present == (0, 1)


def test_own_folder_names_targets_by_file_or_folder(tmp_path: Path) -> None:
    for name in ("cat-1", "hot_air_balloon/7"):
        for folder in ("images", "masks"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(tmp_path / "images" / f"{name}.png")
        Image.new("L", (4, 3), 255).save(tmp_path / "masks" / f"{name}.png")
    data = dataset_named("folder").open(tmp_path)
    assert [data.classes[data.sample(i).present[0]] for i in data.ids()] == ["cat", "hot air balloon"]
    assert (data.sample("cat-1").labels == 1).all()
    Image.new("L", (5, 3), 255).save(tmp_path / "masks" / "cat-1.png")
    with pytest.raises(DataError, match="is 5x3 pixels, its image 4x3"):
        data.sample("cat-1")


def test_scenes_are_their_own_truth() -> None:
    data = dataset_named("scenes").open(None)
    scene, sample = make_scene(20_000_003), data.sample(data.ids()[3])
    assert sample.id == "20000003"
    assert tuple(data.classes[number] for number in sample.present) == scene.concepts
    for name in scene.concepts:
        assert np.array_equal(sample.labels == data.classes.index(name), scene.mask(name))


@pytest.mark.parametrize("name", [n for n in registered() if not n.startswith("scenes")])
def test_missing_data_is_one_line_with_where_to_get_it(name: str, tmp_path: Path) -> None:
    for root in (None, tmp_path):
        with pytest.raises(DataError) as raised:
            dataset_named(name).open(root)
        message = str(raised.value)
        assert "\n" not in message
        assert name in message
        assert ("--data" if root is None else str(tmp_path)) in message
        assert "Get " in message or "It must hold" in message


def test_damaged_files_are_named(voc: Path) -> None:
    base = voc / "VOCdevkit" / "VOC2012"
    (base / "JPEGImages" / "one.jpg").write_bytes(b"torn")
    (base / "SegmentationClass" / "two.png").unlink()
    data = dataset_named("voc-multi").open(voc)
    with pytest.raises(DataError, match="cannot read the image"):
        data.sample("one")
    with pytest.raises(DataError, match="cannot read the label map"):
        data.sample("two")


def test_unknown_names() -> None:
    with pytest.raises(
        UnknownDatasetError, match="no dataset 'coco'. Known: ade20k, cityscapes, coco-instances, coco-object"
    ):
        dataset_named("coco")
    with pytest.raises(DataError, match="no split 'dev' of the scenes"):
        dataset_named("scenes").open(None, split="dev")
