"""What a user of the library meets, on the embedded model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import conceptlens as cl
from conceptlens.bench.datasets.scenes import make_scene
from conceptlens.methods import UnknownMethodError, method_named, registered
from conceptlens.readers.loading import demo_folder
from conceptlens.session import Session
from hooks import hooks_left
from tiny_methods import method_class
from tiny_models import flux_pipeline, sd3_pipeline

PROMPT, CONCEPTS = "a red house and a tree under the sun", ["house", "tree", "sun", "sky"]
QUICK: dict[str, Any] = {"num_inference_steps": 3}


@pytest.fixture(scope="module")
def maps(demo: Session) -> cl.ConceptMaps:
    return demo.generate(PROMPT, CONCEPTS, seed=0, keep=True, **QUICK)


@pytest.fixture(scope="module")
def record(demo: Session) -> cl.ImageRecord:
    return demo.read(Image.fromarray(make_scene(1).image), seed=1)


def plain(session: Session, seed: int, **options: Any) -> np.ndarray:
    call: dict[str, Any] = {**session.generate_defaults, **QUICK, **options}
    return np.asarray(session.pipeline(PROMPT, generator=torch.Generator().manual_seed(seed), **call).images[0])


@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.filterwarnings("ignore:demo was never trained")
def test_the_image_is_the_plain_pipelines_bit_for_bit(demo: Session, count: int) -> None:
    concepts = [f"thing {i}" for i in range(count)]
    shown = demo.generate(PROMPT, concepts, seed=7, background=False, **QUICK)
    assert np.array_equal(plain(demo, 7), np.asarray(shown.image))


def test_maps_are_deterministic_and_well_formed(demo: Session, maps: cl.ConceptMaps) -> None:
    again = demo.generate(PROMPT, CONCEPTS, seed=0, **QUICK)
    assert torch.equal(maps.scores, again.scores)
    assert maps.scores.shape == (4, 16, 16)
    torch.testing.assert_close(maps.scores.sum(0), torch.ones(16, 16))
    assert maps["house"].shape == (16, 16)
    assert maps.image.size == (64, 64)
    heat = maps.heatmap("house")
    assert heat.shape == (64, 64)
    assert heat.min() == 0
    assert heat.max() == 1
    assert maps.mask("house").dtype == bool
    assert maps.segmentation().shape == (64, 64)
    assert np.array_equal(maps.mask("sky", "argmax"), maps.segmentation() == 3)


def test_parts_average_to_the_scores(demo: Session, maps: cl.ConceptMaps) -> None:
    assert maps.parts is not None
    assert maps.recipe is not None
    assert maps.parts.shape == (3, len(maps.recipe.layers or ()), 4, 16, 16)
    torch.testing.assert_close(maps.parts.mean(dim=(0, 1)), maps.scores)
    last = demo.generate(PROMPT, CONCEPTS, seed=0, steps=(-1,), **QUICK)
    torch.testing.assert_close(maps.parts[2].mean(dim=0), last.scores)


def test_recorded_steps_and_layers_are_selected(demo: Session, maps: cl.ConceptMaps) -> None:
    assert maps.parts is not None
    assert maps.recipe is not None
    assert maps.recipe.layers
    one = demo.generate(PROMPT, CONCEPTS, seed=0, layers=(maps.recipe.layers[-1],), **QUICK)
    torch.testing.assert_close(maps.parts[:, -1].mean(dim=0), one.scores)


def test_options_reach_the_pipeline_and_batches_come_back(demo: Session) -> None:
    both = demo.generate([PROMPT, "a blue boat"], CONCEPTS, seed=0, num_images_per_prompt=2, **QUICK)
    assert [m.prompt for m in both] == [PROMPT, PROMPT, "a blue boat", "a blue boat"]
    wide = demo.generate(PROMPT, CONCEPTS, seed=0, width=96, height=32, **QUICK)
    assert wide.image.size == (96, 32)
    assert wide.scores.shape == (4, 8, 24)


def test_probe_asks_again_without_the_model(demo: Session, record: cl.ImageRecord) -> None:
    calls = []
    handle = demo.pipeline.transformer.x_embedder.register_forward_hook(lambda *_: calls.append(1))
    one, two = (demo.probe(record, ["house", "grass"]) for _ in range(2))
    handle.remove()
    assert not calls
    assert torch.equal(one.scores, two.scores)
    fresh = demo.read(Image.fromarray(make_scene(1).image), seed=1)
    assert torch.equal(one.scores, demo.probe(fresh, ["house", "grass"]).scores)


def test_a_record_says_what_it_lacks_for_the_cross_space(demo: Session, record: cl.ImageRecord) -> None:
    """Image keys are in every record, image queries are not."""
    keys: dict[str, Any] = {
        "space": "cross",
        "cross_pair": "query-key",
        "cross_rotated": "neither",
        "cross_heads": "sum",
    }
    fresh = demo.read(Image.fromarray(make_scene(1).image), seed=1, **keys)
    assert torch.equal(demo.probe(record, CONCEPTS, **keys).scores, demo.probe(fresh, CONCEPTS).scores)
    for held, pair in ((record, "key-query"), (fresh, "query-query")):
        with pytest.raises(cl.RecipeError, match=f"no image queries. .* with space='cross', cross_pair='{pair}'"):
            demo.probe(held, CONCEPTS, space="cross", cross_pair=pair)
    with pytest.raises(cl.RecipeError, match="with image_vectors='concept-pass'"):
        demo.probe(record, CONCEPTS, image_vectors="concept-pass")
    with pytest.raises(cl.RecipeError, match="cross_pair must be one of key-query, query-key, query-query; got 'key'"):
        demo.probe(record, CONCEPTS, cross_pair="key")


def test_the_seed_of_a_reading_draws_its_noise(demo: Session) -> None:
    picture = Image.fromarray(make_scene(2).image)
    first, again, other = (demo.probe(demo.read(picture, seed=seed), CONCEPTS).scores for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 1e-3


def test_samples_are_averaged(demo: Session) -> None:
    picture = Image.fromarray(make_scene(2).image)
    one, many = (demo.read(picture, samples=n, noise=0.8) for n in (1, 4))
    a, b = (demo.probe(r, ["house", "sky"]).scores for r in (one, many))
    assert a.shape == b.shape
    assert not torch.equal(a, b)


def test_maps_come_back_in_the_frame_of_the_original(demo: Session) -> None:
    picture = Image.fromarray(make_scene(3).image).resize((300, 150))
    record = demo.read(picture)
    assert record.grid.cols > record.grid.rows
    assert demo.probe(record, ["sky", "grass"]).heatmap("sky").shape == (150, 300)


def test_a_record_survives_the_disk(demo: Session, record: cl.ImageRecord, tmp_path: Path) -> None:
    path = demo.save_record(record, tmp_path / "scene.record")
    again = demo.load_record(path)
    assert torch.equal(demo.probe(record, CONCEPTS).scores, demo.probe(again, CONCEPTS).scores)
    assert again.recipe == record.recipe
    assert [p.name for p in tmp_path.iterdir()] == ["scene.record"]


def test_one_concept_gets_a_background(demo: Session, record: cl.ImageRecord) -> None:
    with pytest.warns(UserWarning, match="one word alone would win everywhere, so .* compete with 'house'"):
        maps = demo.probe(record, ["house"])
    assert maps.asked == ("house",)
    assert maps.scores.std() > 0
    alone = demo.probe(record, ["house"], background=False)
    assert torch.equal(alone.scores, torch.ones(1, 16, 16))
    with_words = demo.probe(record, ["house"], background=["sky", "grass"])
    assert with_words.concepts == ("house", "sky", "grass")


def test_a_word_outside_the_small_vocabulary_is_noted(demo: Session, record: cl.ImageRecord) -> None:
    with pytest.warns(UserWarning, match="demo was never trained on dragon; expect noise"):
        demo.probe(record, ["dragon", "House"])


def test_a_single_concept_without_softmax_stays_alone(demo: Session, record: cl.ImageRecord) -> None:
    assert demo.probe(record, ["house"], softmax=False).concepts == ("house",)


def test_isolated_raw_scores_do_not_depend_on_the_set(demo: Session, record: cl.ImageRecord) -> None:
    options: dict[str, Any] = {"isolate": True, "softmax": False}
    few = demo.probe(record, ["house", "sky"], **options)
    many = demo.probe(record, ["tree", "sky", "house", "ball"], **options)
    torch.testing.assert_close(few["house"], many["house"], rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:demo was never trained on skyscraper")
def test_a_multi_piece_concept_does_not_shift_the_others(demo: Session, record: cl.ImageRecord) -> None:
    options: dict[str, Any] = {"isolate": True, "softmax": False}
    plain_, long = (demo.probe(record, [first, "sky"], **options)["sky"] for first in ("house", "skyscraper"))
    torch.testing.assert_close(plain_, long, rtol=1e-4, atol=1e-4)


def test_save_writes_everything_and_says_how(maps: cl.ConceptMaps, tmp_path: Path) -> None:
    maps.save(tmp_path / "out")
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"image.png", "overlay.png", "segmentation.png", "maps.npz", "maps.json"} <= names
    assert {f"mask-{i}-{c}.png" for i, c in enumerate(CONCEPTS)} <= names
    assert not [n for n in names if n.endswith(".part")]
    mask = np.asarray(Image.open(tmp_path / "out" / "mask-0-house.png"))
    assert np.array_equal(mask > 0, maps.mask("house", "argmax"))
    assert list(maps) == list(CONCEPTS)
    assert "house" in maps
    assert "boat" not in maps
    assert repr(maps).startswith("<ConceptMaps of house, ")
    said = json.loads((tmp_path / "out" / "maps.json").read_text())
    assert said["seed"] == 0
    assert said["recipe"]["space"] == "output"
    assert said["model"] == "demo"
    assert np.load(tmp_path / "out" / "maps.npz")["scores"].shape == (4, 16, 16)
    assert maps.overlay().width > 256


def test_presets_and_families(demo: Session) -> None:
    assert demo.family == "FLUX.1"
    paper = demo.recipe("paper")
    assert paper.preset == "paper"
    assert paper.pooling == "first"
    assert demo.recipe().layers is not None
    assert "preset paper" in demo.generate(PROMPT, CONCEPTS, seed=0, preset="paper", **QUICK).describe()


def test_saved_pipelines_load_from_a_folder(tmp_path: Path) -> None:
    for build in (flux_pipeline, sd3_pipeline):
        folder = tmp_path / build.__name__
        build().save_pretrained(folder)
        session = cl.load(folder, device="cpu")
        adopted = cl.load(build())
        maps, same = (
            s.generate("a red house", ["house", "sky"], seed=1, height=16, width=24, num_inference_steps=2)
            for s in (session, adopted)
        )
        torch.testing.assert_close(maps.scores, same.scores)
        record = session.read(Image.fromarray(make_scene(1).image))
        assert session.probe(record, ["house", "sky"]).scores.isfinite().all()


@pytest.mark.parametrize("name", [name for name, method in registered().items() if method.info.backbone is None])
def test_methods_give_finite_maps_are_deterministic_and_leave_no_hooks(demo: Session, name: str) -> None:
    method = method_class(name)(demo)
    picture = Image.fromarray(make_scene(4).image).resize((96, 48))
    one, two = (method.explain(picture, ["house", "sky"], seed=3) for _ in range(2))
    assert one.scores.isfinite().all()
    assert torch.equal(one.scores, two.scores)
    assert one.scores.shape[2] > one.scores.shape[1]
    assert hooks_left(demo) == []


def test_an_unknown_method_lists_the_known() -> None:
    with pytest.raises(UnknownMethodError, match="no method 'dam'. Known: .*concept-attention, "):
        method_named("dam")


def test_the_embedded_model_is_small_and_ordinary() -> None:
    folder = demo_folder()
    assert (folder / "model_index.json").exists()
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 24 * 2**20
    assert "seconds" in (folder / "README.md").read_text() or "steps" in (folder / "README.md").read_text()
