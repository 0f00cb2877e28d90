"""Saved results: the files, the report, and running them again."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conceptlens.bench.datasets.scenes import make_scene
from conceptlens.maps.exports import decode_rle
from conceptlens.rerun import RerunError, difference, rerun
from conceptlens.session import Session


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(make_scene(8).image)


def test_a_reading_runs_again_bit_for_bit(demo: Session, picture: Image.Image, tmp_path: Path) -> None:
    record = demo.read(picture, noise=0.4, samples=2, seed=3, layers=(1, 3))
    demo.probe(record, ["house", "sky"], temperature=2.0).save(tmp_path)
    again = rerun(tmp_path / "maps.json", session=demo)
    assert again.recipe is not None
    assert again.recipe.temperature == 2.0
    assert difference(again, tmp_path) == 0


def test_a_file_of_an_earlier_version_runs_again_as_it_was_made(
    demo: Session, picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A field that it does not have is not taken from the preset that it names."""
    maps = demo.probe(demo.read(picture, preset="paper", space="cross"), ["house", "sky"])
    maps.save(tmp_path)
    told = json.loads((tmp_path / "maps.json").read_text())
    for name in ("cross_pair", "cross_rotated", "cross_heads", "softmax_at"):
        del told["recipe"][name]
    (tmp_path / "maps.json").write_text(json.dumps(told))
    adapter = type(demo.adapter)
    later = replace(adapter(demo.pipeline.transformer).paper_recipe(demo.depth), cross_pair="query-query")
    monkeypatch.setattr(adapter, "paper_recipe", lambda self, depth: later)
    assert demo.recipe("paper").cross_pair == "query-query"
    assert difference(rerun(tmp_path, session=demo), tmp_path) == 0


def test_a_painting_runs_again_bit_for_bit(demo: Session, tmp_path: Path) -> None:
    maps = demo.generate("a red house", ["house", "sky"], seed=5, num_inference_steps=3, steps=(-1,), record=True)
    maps.save(tmp_path)
    again = rerun(tmp_path, session=demo)
    assert again.image.tobytes() == maps.image.tobytes()
    assert torch.equal(again.scores, maps.scores)
    assert maps.record is not None
    demo.probe(maps.record, ["moon", "grass"]).save(tmp_path)
    assert difference(rerun(tmp_path, session=demo), tmp_path) == 0


@pytest.mark.filterwarnings("ignore:one word alone would win everywhere")
def test_the_files_hold_the_same_masks(demo: Session, picture: Image.Image, tmp_path: Path) -> None:
    maps = demo.probe(demo.read(picture), ["house", "sky", "grass"])
    maps.save(tmp_path)
    labels = np.asarray(Image.open(tmp_path / "labels.png"))
    assert np.array_equal(labels, maps.segmentation())
    for annotation in json.loads((tmp_path / "coco.json").read_text())["annotations"]:
        own = annotation["category_id"] - 1
        assert np.array_equal(decode_rle(annotation["segmentation"]), labels == own)
        cut = Image.open(tmp_path / f"cutout-{own}-{maps.concepts[own]}.png")
        assert np.array_equal(np.asarray(cut.getchannel("A")) == 255, labels == own)


class Outside(HTMLParser):
    """Collects what a page would fetch, and the texts of its pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.pictures: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.fetched += [v for k, v in given.items() if k in ("src", "href") and v and not v.startswith("data:")]
        if tag == "img":
            self.pictures.append(given.get("alt") or "")


@pytest.mark.filterwarnings("ignore:concept .* is read without")
def test_the_report_needs_nothing_beside_it_and_trusts_no_word(demo: Session, picture: Image.Image) -> None:
    with pytest.warns(UserWarning, match="never trained on"):
        maps = demo.probe(demo.read(picture), ["<script>alert(1)</script>", "sky"])
    for text in (maps.report(), maps._repr_html_()):
        page = Outside()
        page.feed(text)
        assert page.fetched == []
        assert "script" not in page.tags
        assert page.pictures
        assert "&lt;script&gt;" in text
    assert re.search(r"<title>Where is &lt;script&gt;", maps.report())
    assert '"noise": 0.25' in maps.report()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": None}, "has no seed"),
        ({"batch": 3}, "one of a batch of 3 pictures"),
        ({"recipe": None, "method": "daam"}, "made by the method 'daam'"),
        ({"model": "other/model"}, "was made by other/model, this session has demo"),
        ({"recipe": [1, 2]}, r"is damaged \(its recipe is \[1, 2\]\)"),
        ({"pipeline": 7}, r"is damaged \('int' object is not iterable\)"),
    ],
)
def test_what_cannot_be_repeated_is_one_line(
    demo: Session, picture: Image.Image, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    demo.probe(demo.read(picture), ["house", "sky"]).save(tmp_path)
    told = json.loads((tmp_path / "maps.json").read_text())
    (tmp_path / "maps.json").write_text(json.dumps({**told, **change}))
    with pytest.raises(RerunError, match=said) as caught:
        rerun(tmp_path, session=demo)
    assert "\n" not in str(caught.value)


def test_the_difference_is_the_largest_of_all_scores(demo: Session, picture: Image.Image, tmp_path: Path) -> None:
    maps = demo.probe(demo.read(picture), ["house", "sky"])
    maps.save(tmp_path)
    scores = maps.scores.clone()
    scores[1, 2, 3] -= 0.25
    assert difference(replace(maps, scores=scores), tmp_path) == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize("keep", [0, 100])
def test_saved_scores_that_are_cut_short_are_one_line(
    demo: Session, picture: Image.Image, tmp_path: Path, keep: int
) -> None:
    maps = demo.probe(demo.read(picture), ["house", "sky"])
    maps.save(tmp_path)
    (tmp_path / "maps.npz").write_bytes((tmp_path / "maps.npz").read_bytes()[:keep])
    with pytest.raises(RerunError, match="cannot read .*maps.npz") as caught:
        difference(maps, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_or_foreign_file_is_one_line(demo: Session, tmp_path: Path) -> None:
    with pytest.raises(RerunError, match="cannot read .*maps.json"):
        rerun(tmp_path, session=demo)
    (tmp_path / "maps.json").write_text("[]")
    with pytest.raises(RerunError, match="no maps.json of conceptlens"):
        rerun(tmp_path, session=demo)
    (tmp_path / "maps.json").write_text("{}")
    with pytest.raises(RerunError, match="does not tell 'model'"):
        rerun(tmp_path, session=demo)
