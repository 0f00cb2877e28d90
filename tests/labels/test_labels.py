"""The label factory: what passes and why, the files that come of it, and runs that are interrupted anywhere."""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import json
import multiprocessing
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from command_line import here
from conceptlens.bench.datasets import dataset_named
from conceptlens.bench.datasets.scenes import make_scene
from conceptlens.bench.rows import RUN
from conceptlens.bench.scorer import image_seed
from conceptlens.labels import Gates, LabelError, LabelSpec, Running, label, read_plan
from conceptlens.labels.dataset import label_map, label_picture, write_dataset
from conceptlens.labels.gates import overlap
from conceptlens.labels.labeller import PICTURE, Labeller
from conceptlens.labels.runs import summed
from conceptlens.maps.exports import decode_rle, encode_rle
from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.session import Session
from conceptlens.values.errors import RecipeError

SCENES = (10_000_000, 10_000_001, 10_000_004)
OPEN = Gates(presence=0.0, flip=0.0, doubt=0.5, smallest=0.0, largest=1.0)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three scenes with captions."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, seed in enumerate(SCENES):
        scene = make_scene(seed)
        Image.fromarray(scene.image).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(scene.caption)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """All files of a data set but `run.json`, whose header may change between starts."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != RUN]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_gates_say_which_threshold_was_missed_and_by_how_much() -> None:
    gates = Gates(presence=0.5, flip=0.6, doubt=0.3, smallest=0.01, largest=0.9)
    good = {"presence": 0.5, "flip": 0.6, "doubt": 0.3, "area": 0.01}
    assert gates.reasons(good) == {}
    assert gates.reasons({**good, "presence": 0.4999}) == {"presence": "0.5 is below 0.5"}
    assert gates.reasons({**good, "flip": 0.25, "doubt": 0.31}) == {
        "flip": "0.25 is below 0.6",
        "doubt": "0.31 is above 0.3",
    }
    assert gates.reasons({**good, "area": 0.95}) == {"area": "0.95 is above 0.9"}
    assert gates.reasons({**good, "area": 0.0}) == {"area": "the mask is empty"}
    assert gates.reasons({"presence": None, "area": 0.5}) == {}
    assert (gates.passes(1, 2), gates.passes(0, 2)) == (True, False)
    assert (Gates(every=True).passes(1, 2), Gates(every=True).passes(2, 2)) == (False, True)
    with pytest.raises(RecipeError, match=r"threshold flip is a share or a chance, from 0 to 1; got 1\.5"):
        Gates(flip=1.5)
    with pytest.raises(RecipeError, match=r"smallest is 0\.5, above largest, 0\.4"):
        Gates(smallest=0.5, largest=0.4)


def test_overlap_is_the_intersection_over_the_union() -> None:
    left, top = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    left[:, :2] = top[:2] = True
    assert overlap(left, top) == pytest.approx(4 / 12)
    assert overlap(left & False, top & False) == 1


def rows_by_hand() -> tuple[list[dict[str, Any]], np.ndarray]:
    """A picture of 4 x 6 pixels with two labels, background and rejected pixels; another that was rejected."""
    stored = np.array([[1, 1, 0, 0, 2, 2], [1, 1, 0, 0, 2, 2], [1, 0, 0, 9, 9, 9], [0, 0, 0, 9, 9, 9]])
    found = []
    for number, word, box in ((1, "cat", [0, 0, 2, 3]), (2, "red | car", [4, 0, 2, 2])):
        mask = stored == number
        found.append(
            {"word": word, "segmentation": encode_rle(mask), "area": int(mask.sum()), "bbox": box, "iscrowd": 0}
        )
    good = {"presence": 0.9, "flip": 0.8, "doubt": 0.1, "area": 0.2, "rejected": {}}
    bad = {"word": "dog", "presence": None, "rejected": {"flip": "0.1 is below 0.6", "area": "0.99 is above 0.95"}}
    words = [{"word": "cat", **good}, {"word": "red | car", **good}, bad]
    kept = {"id": "a/1", "text": "a cat", "seed": 1, "size": [6, 4], "words": words, "kept": True}
    kept |= {"annotations": found, "unlabelled": encode_rle(stored == 9)}
    return [kept, {"id": "a/2", "text": "", "seed": 2, "size": [6, 4], "words": [bad], "kept": False}], stored


HEADER: dict[str, Any] = {
    "command": "conceptlens label --images x",
    "versions": {"torch": "2"},
    "settings": {
        **{
            "images": "x",
            "maps": "a reading of each picture",
            "model": "demo",
            "words": None,
            "background": [],
            "painting": {},
            "seed": 3,
        },
        **{"recipe": {"noise": 0.25}, "edges": False, "abstain": 0.0, "gates": Gates().__dict__},
    },
}


def test_files_of_a_data_set_hold_the_masks_of_its_rows(tmp_path: Path) -> None:
    rows, stored = rows_by_hand()
    (tmp_path / "images" / "a").mkdir(parents=True)
    Image.new("RGB", (6, 4), "red").save(tmp_path / "images" / "a" / "1.png")
    write_dataset(tmp_path, rows, HEADER, summed(rows).reasons)
    with Image.open(tmp_path / "annotations" / "a" / "1.png") as opened:
        assert opened.mode == "P"
        assert np.array_equal(np.asarray(opened), np.where(stored == 9, 255, stored))
    told = json.loads((tmp_path / "coco.json").read_text())
    assert told["images"] == [{"id": 1, "width": 6, "height": 4, "file_name": "images/a/1.png"}]
    assert told["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "red | car"}]
    assert [(a["id"], a["image_id"], a["category_id"], a["area"]) for a in told["annotations"]] == [
        (1, 1, 1, 5),
        (2, 1, 2, 4),
    ]
    assert np.array_equal(decode_rle(told["annotations"][0]["segmentation"]), stored == 1)
    assert json.loads((tmp_path / "images" / "metadata.jsonl").read_text()) == {
        "file_name": "a/1.png",
        "annotation": "annotations/a/1.png",
        "text": "a cat",
        "objects": {"bbox": [[0, 0, 2, 3], [4, 0, 2, 2]], "category": [1, 2], "name": ["cat", "red | car"]},
    }
    with (tmp_path / "rejected.csv").open() as file:
        assert [tuple(line) for line in csv.reader(file)][1:] == [
            ("a/1", "kept", "dog", "flip", "0.1 is below 0.6"),
            ("a/1", "kept", "dog", "area", "0.99 is above 0.95"),
            ("a/2", "rejected", "dog", "flip", "0.1 is below 0.6"),
            ("a/2", "rejected", "dog", "area", "0.99 is above 0.95"),
        ]
    card = (tmp_path / "README.md").read_text()
    assert "1 of 2 pictures, 2 of 4 words" in card
    assert "| flip | IoU with the mirrored picture of at least 0.6 | 2 | 2 |" in card
    assert "| red \\| car | 1 |" in card
    with Image.open(tmp_path / "sheet.png") as opened:
        assert opened.width > 512


def test_the_benchmark_reads_what_the_factory_wrote(tmp_path: Path) -> None:
    rows, stored = rows_by_hand()
    rows[0]["annotations"][1]["word"] = "car"
    (tmp_path / "images" / "a").mkdir(parents=True)
    Image.new("RGB", (6, 4)).save(tmp_path / "images" / "a" / "1.png")
    write_dataset(tmp_path, rows, HEADER, {})
    data = dataset_named("index-png").open(tmp_path)
    sample = data.sample("a/1")
    assert data.classes == ("cat", "car")
    assert np.array_equal(sample.labels, np.select([stored == 1, stored == 2], [0, 1], -1))


def test_more_categories_than_a_palette_holds_become_16_bits(tmp_path: Path) -> None:
    labels = np.array([[-1, 0, 254, 300]])
    path = tmp_path / "labels.png"
    label_picture(labels, 300).save(path)
    with Image.open(path) as opened:
        assert np.asarray(opened).tolist() == [[65535, 0, 254, 300]]
    assert np.asarray(label_picture(labels[:, :3], 254)).tolist() == [[255, 0, 254]]


def test_labels_of_pictures_are_the_masks_of_a_reading(demo: Session, pictures: Path, tmp_path: Path) -> None:
    """A word that is not there takes no pixels from the others, and what was measured is what it is called."""
    words = ("moon", "balloon", "car", "sand")
    gates = Gates(presence=0.5, flip=0.0, doubt=0.5, smallest=0.0, largest=1.0)
    plan = read_plan(None, pictures, tmp_path / "out", LabelSpec(words=words, background=False, gates=gates))
    row = Labeller(plan, demo).rows(["0"])[0]
    told = {word["word"]: word for word in row["words"]}
    there = tuple(word for word in words if told[word]["presence"] is None or told[word]["presence"] >= 0.5)
    assert set(make_scene(SCENES[0]).concepts) & set(words) <= set(there) != set(words)
    picture = Image.open(pictures / "0.png")
    seed = image_seed(0, "0")
    plain, turned = (
        demo.probe(demo.read(image, seed=seed, preset="sharp"), there, background=False)
        for image in (picture, ImageOps.mirror(picture))
    )
    masks = {word: plain.segmentation() == number for number, word in enumerate(there)}
    mirrored = np.fliplr(turned.segmentation())
    for number, word in enumerate(there):
        assert told[word]["area"] == pytest.approx(masks[word].mean(), abs=2e-3)
        assert told[word]["flip"] == pytest.approx(overlap(masks[word], mirrored == number), abs=0.02)
    for absent in set(words) - set(there):
        assert "presence" in told[absent]["rejected"]
        assert "area" not in told[absent]
    kept = [each["word"] for each in row["annotations"]]
    assert kept == [word for word in words if not told[word]["rejected"]]
    assert label_map(row, kept).shape == (64, 64)
    assert base64.b64decode(row[PICTURE])[:4] == b"\x89PNG"


def test_pixels_of_a_rejected_word_get_no_label(demo: Session, pictures: Path, tmp_path: Path) -> None:
    spec = LabelSpec(gates=Gates(presence=0.0, flip=0.0, doubt=0.5, smallest=0.0, largest=0.3))
    row = Labeller(read_plan(None, pictures, tmp_path / "out", spec), demo).rows(["0"])[0]
    rejected = [word for word in row["words"] if "area" in word["rejected"]]
    assert rejected
    assert len(rejected) < len(row["words"])
    labels = label_map(row, [each["word"] for each in row["annotations"]])
    assert (labels == -1).mean() == pytest.approx(sum(word["area"] for word in rejected), abs=1e-3)


@pytest.mark.parametrize("while_painting", [False, True])
def test_paintings_are_those_of_the_plain_call(demo: Session, tmp_path: Path, while_painting: bool) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a red house\n\na yellow sun\n")
    options: dict[str, Any] = {"num_inference_steps": 2}
    spec = LabelSpec(per_prompt=2, options=options, gates=OPEN, seed=5, while_painting=while_painting)
    plan = read_plan(file, None, tmp_path / "out", spec)
    assert plan.ids() == ["000000-0", "000000-1", "000001-0", "000001-1"]
    summary = label(plan, tmp_path / "out", Running(limit=3), labeller=Labeller(plan, demo))
    assert summary.pictures == 3
    seed = image_seed(5, "000001-0")
    others = ("sky", "grass", "sand", "snow", "sea")
    expected = demo.generate("a yellow sun", ["sun"], seed=seed, background=others, preset="sharp", **options)
    with Image.open(tmp_path / "out" / "images" / "000001-0.png") as opened:
        assert np.array_equal(np.asarray(opened), np.asarray(expected.image))
    assert isinstance(expected, ConceptMaps)
    if not while_painting:
        expected = demo.probe(demo.read(expected.image, seed=seed, preset="sharp"), ["sun"], background=others)
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert [(row["text"], [word["word"] for word in row["words"]]) for row in rows] == [
        ("a red house", ["house"]),
        ("a red house", ["house"]),
        ("a yellow sun", ["sun"]),
    ]
    mask = decode_rle(rows[2]["annotations"][0]["segmentation"])
    assert np.array_equal(mask, expected.segmentation() == 0)


def test_a_run_that_was_stopped_goes_on_to_the_same_files(demo: Session, pictures: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    spec = LabelSpec(gates=OPEN)
    plan = read_plan(None, pictures, whole, spec)
    labeller = Labeller(plan, demo)
    label(plan, whole, Running(batch=2), labeller=labeller)

    def stopping(rows: Any, total: int) -> Any:
        for number, row in enumerate(rows):
            if number == 1:
                raise KeyboardInterrupt
            yield row

    with pytest.raises(KeyboardInterrupt):
        label(plan, parts, Running(batch=2), labeller=labeller, track=stopping)
    assert not (parts / "coco.json").exists()
    label(plan, parts, Running(batch=2), labeller=labeller)
    assert files_of(parts) == files_of(whole)
    assert len((parts / "rows.jsonl").read_text().splitlines()) == 3


def test_a_picture_that_cannot_be_read_spoils_no_other(demo: Session, pictures: Path, tmp_path: Path) -> None:
    (pictures / "1.png").write_bytes(b"torn")
    (pictures / "2.txt").write_text("")
    plan = read_plan(None, pictures, tmp_path / "out", LabelSpec(gates=OPEN))
    summary = label(plan, tmp_path / "out", Running(batch=3), labeller=Labeller(plan, demo))
    assert (summary.pictures, summary.kept) == (3, 1)
    assert [row["id"] for row in summary.bad] == ["1", "2"]
    assert "cannot read" in summary.bad[0]["error"]
    lines = list(csv.reader((tmp_path / "out" / "rejected.csv").read_text().splitlines()))
    assert [line[:4] for line in lines[1:]] == [["1", "rejected", "", "error"], ["2", "rejected", "", "error"]]


class Quick(Labeller):
    """Rows without a model, one every few milliseconds."""

    def __init__(self, spec: LabelSpec) -> None:
        self.spec = spec
        self.session: Any = SimpleNamespace(reader=SimpleNamespace(texts_held=contextlib.nullcontext))

    @property
    def settings(self) -> dict[str, Any]:
        return HEADER["settings"]

    def header(self, command: str) -> dict[str, Any]:
        return {"command": command, "versions": {}}

    def rows(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        time.sleep(0.004)
        (kept, dropped), _ = rows_by_hand()
        pixels = np.full((4, 6, 3), int(ids[0].partition("-")[0]), np.uint8)
        Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
        picture = {PICTURE: base64.b64encode(file.getvalue()).decode()}
        return [{**kept, **picture, "id": id_} if int(id_[:6]) % 3 else {**dropped, "id": id_} for id_ in ids]


QUICK = LabelSpec(prompts=tuple(map(str, range(60))))


def label_quickly(out: Path) -> None:
    label(QUICK, out, labeller=Quick(QUICK))


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_killed_at_random_moments_no_picture_is_lost_or_doubled(tmp_path: Path) -> None:
    label_quickly(tmp_path / "whole")
    chance, killed = random.Random(3), 0
    for _ in range(40):
        process = multiprocessing.get_context("fork").Process(target=label_quickly, args=(tmp_path / "parts",))
        process.start()
        process.join(chance.uniform(0.02, 0.2))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:
            break
    assert killed >= 3
    label_quickly(tmp_path / "parts")
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    ids = [json.loads(line)["id"] for line in (tmp_path / "parts" / "rows.jsonl").read_text().splitlines()]
    assert ids == QUICK.ids()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.slow
def test_ray_gives_the_same_data_set(pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    plan = read_plan(None, pictures, tmp_path / "local", LabelSpec(gates=OPEN))
    label(plan, tmp_path / "local")
    label(plan, tmp_path / "ray", Running(engine="ray", workers=2))
    local, spread = files_of(tmp_path / "local"), files_of(tmp_path / "ray")
    assert sorted(local.pop("rows.jsonl").splitlines()) == sorted(spread.pop("rows.jsonl").splitlines())
    assert local == spread


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "a file of prompts or a folder of pictures is labelled; got neither"),
        (["no.txt"], "cannot read prompts from no.txt"),
        (["prompts.txt", "--images", "pictures"], "got both"),
        (["--images", "nowhere", "-w", "house"], "no pictures in nowhere"),
        (["--images", "bare"], "no caption in bare/a.txt"),
        (["--images", "bare", "-w", "house", "--steps", "4"], "num_inference_steps: of painting"),
        (["--images", "bare", "-w", "house", "--out", "bare/out"], "share a folder"),
        (["prompts.txt", "--flip", "7"], "the threshold flip is a share or a chance"),
        (["prompts.txt", "--engine", "spark"], "no engine 'spark'"),
        (["prompts.txt", "--preset", "soft"], "no preset 'soft'"),
        (["prompts.txt", "-w", "house, house"], "house"),
        (["empty.txt"], "holds no prompt"),
    ],
)
def test_a_wrong_request_is_one_line_and_writes_nothing(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bare").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "bare" / "a.png")
    (tmp_path / "prompts.txt").write_text("a house\n")
    (tmp_path / "empty.txt").write_text("\n")
    assert here(monkeypatch, "label", *(arguments if "--out" in arguments else [*arguments, "--out", "out"])) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "bare" / "out").exists()


def test_pictures_that_differ_in_their_ending_alone_keep_it(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "b").mkdir(parents=True)
    for name in ("a.png", "a.jpg", "b/c.png"):
        Image.new("RGB", (32, 32)).save(folder / name)
    plan = read_plan(None, folder, tmp_path / "out", LabelSpec(words=("house",)))
    assert plan.pictures == {"a.jpg": "a.jpg", "a.png": "a.png", "b/c": "b/c.png"}
    with pytest.raises(LabelError, match="share a folder"):
        read_plan(None, folder, tmp_path, LabelSpec(words=("house",)))


def test_the_command_labels_a_folder(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "data"
    arguments = ["--images", str(pictures), "--limit", "1", "--flip", "0", "--out", str(out)]
    assert here(monkeypatch, "label", *arguments, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["pictures"], told["out"]) == (1, str(out))
    assert told["labels"] == len(json.loads((out / "coco.json").read_text())["annotations"]) > 0
    assert here(monkeypatch, "label", *arguments, "--doubt", "0.2") == 2
    assert "holds a run with other settings: gates.doubt was 0.4, now 0.2" in capsys.readouterr().err
