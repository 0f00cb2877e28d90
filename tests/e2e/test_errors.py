"""Bad input: one clear line that says what, got, expected, next step; nothing half-written."""

from __future__ import annotations

import errno
from inspect import unwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import conceptlens as cl
from conceptlens.bench.datasets.scenes import make_scene
from conceptlens.maps.picture_files import open_image
from conceptlens.presence import add_presence, presence
from conceptlens.readers.replay import check_origin
from conceptlens.session import Session
from conceptlens.values.recipe import check_seed
from conceptlens.values.words import check_concepts
from hooks import hooks_left
from tiny_models import flux_pipeline


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(make_scene(1).image)


@pytest.mark.parametrize(
    ("concepts", "says"),
    [
        ([], "no concepts were given. Name at least one"),
        (["house", " "], "concept 2 of 2 is empty"),
        (["house", "sky", "house "], "concept 'house' was given twice"),
        ("house", "must be a list of words; got the text 'house'"),
        (
            ["house", "very " * 40 + "long"],
            r"concept 'very very .*\.\.\.' has \d+ tokens with the T5 tokenizer; it reads 32",
        ),
    ],
)
def test_concepts(demo: Session, picture: Image.Image, concepts: list[str], says: str) -> None:
    with pytest.raises(cl.ConceptError, match=says):
        demo.generate("a red house", concepts, num_inference_steps=1)
    record = demo.read(picture)
    with pytest.raises(cl.ConceptError, match=says):
        demo.probe(record, concepts)


def test_things_of_the_wrong_kind() -> None:
    """As they come from users; here a type checker stands in front of every function."""
    with pytest.raises(cl.ImageError, match="an image is a path or a PIL picture; got a ndarray. Arrays: PIL.Image.f"):
        unwrap(open_image)(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(cl.RecipeError, match="probe asks a record; got 'photo.record'. Make one with read or load_rec"):
        check_origin("photo.record", "demo")
    with pytest.raises(cl.ConceptError, match=r"concept 1 of 1 is no text; got \['house', 'sky'\]. Give a flat list"):
        unwrap(check_concepts)([["house", "sky"]])
    with pytest.raises(cl.RecipeError, match=r"a seed is one whole number; got \[1, 2\]. For several pictures, paint"):
        unwrap(check_seed)([1, 2])
    for opened in (cl.load, cl.doctor):
        with pytest.raises(cl.ModelError, match="a model is a hub id, a folder.* or a diffusers pipeline; got 3"):
            opened(3)


def test_a_record_that_chances_were_not_measured_for_says_so(demo: Session, picture: Image.Image) -> None:
    record = demo.read(picture, noise=0.3)
    with pytest.warns(UserWarning, match="no chances of presence: .* read at noise 0.25 .* Read with noise=0.25"):
        assert presence(demo, record, ["house"])[0].chance is None
    maps = demo.probe(record, ["house", "sky"])
    assert add_presence(demo, maps, record, again=False).presence is None
    assert add_presence(demo, maps, record).presence is not None


@pytest.mark.parametrize("prompt", ["", "  ", []])
def test_empty_prompt(demo: Session, prompt: str | list[str]) -> None:
    with pytest.raises(cl.RecipeError, match="the prompt is empty. Say what to paint"):
        demo.generate(prompt, ["house", "sky"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"space": "keys"}, "space must be one of output, cross, value; got 'keys'"),
        ({"layers": (9,)}, "layers has 9, but there are 6 blocks: use 0 to 5"),
        ({"layers": ()}, "layers must be one or more whole numbers"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"steps": (40,), "num_inference_steps": 2}, "steps has 40, but there are 2 denoising steps"),
        ({"output_type": "latent"}, "output_type cannot be set"),
        ({"num_inference_steps": 0}, "num_inference_steps must be at least 1; got 0"),
        ({"height": 0}, "height must be at least 1; got 0"),
        ({"width": -8}, "width must be at least 1; got -8"),
        ({"foo": 1}, "neither Recipe nor FluxPipeline has an option 'foo'"),
        ({"temperature": "hot"}, "temperature must be a number; got 'hot'"),
        ({"softmax": 1}, "softmax must be true or false; got 1"),
        ({"seed": 2**70}, "a seed has 64 bits"),
        ({"seed": 1, "generator": torch.Generator()}, "both seed and generator"),
        ({"negative_prompt_embeds": 3}, "FluxPipeline refused its settings"),
    ],
)
def test_settings(demo: Session, options: dict[str, Any], says: str) -> None:
    with pytest.raises(cl.RecipeError, match=says):
        demo.generate("a red house", ["house", "sky"], **options)
    assert hooks_left(demo) == []


def test_reading_settings(demo: Session, picture: Image.Image) -> None:
    wrong = {"noise": (1.5, "from 0 .clean. to 1"), "samples": (0, "at least 1"), "foo": (1, "no recipe option 'foo'")}
    for name, (value, says) in wrong.items():
        with pytest.raises(cl.RecipeError, match=says):
            demo.read(picture, **{name: value})
    with pytest.raises(cl.RecipeError, match="no preset 'papre'. Known: paper"):
        demo.read(picture, preset="papre")  # type: ignore[arg-type]


def test_probing_more_than_was_recorded(demo: Session, picture: Image.Image) -> None:
    record = demo.read(picture, layers=(2,))
    with pytest.raises(cl.RecipeError, match="layer 4 was not recorded"):
        demo.probe(record, ["house", "sky"], layers=(4,))
    with pytest.raises(cl.RecipeError, match="no image queries. Read the image again with space='cross'"):
        demo.probe(record, ["house", "sky"], space="cross")
    with pytest.raises(cl.RecipeError, match="fixed when an image is read"):
        demo.probe(record, ["house", "sky"], noise=0.1)
    with pytest.raises(cl.ModelError, match="made by demo"):
        cl.load(flux_pipeline()).probe(record, ["house", "sky"])


def test_images(demo: Session, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (40, 40)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    Image.new("RGB", (20_000, 16)).save(tmp_path / "wide.png")
    cases = [
        (tmp_path / "none.png", "no image at .*none.png"),
        (tmp_path / "text.png", "cannot read .*text.png as an image"),
        (tmp_path / "cut.png", "cannot read .*cut.png as an image"),
        (tmp_path, "cannot read .* as an image"),
        (Image.new("RGB", (1, 1)), "image is 1x1 pixels; sides from 8 to 16384 can be read"),
        (tmp_path / "wide.png", "wide.png is 20000x16 pixels; sides from 8 to 16384"),
        (Image.new("RGB", (300, 30)), "image is 300x30 pixels; a side may be at most 8 times the other"),
    ]
    for source, says in cases:
        with pytest.raises(cl.ImageError, match=says):
            demo.read(source)


def test_images_of_other_kinds_are_read() -> None:
    ramp = np.tile(np.linspace(0, 1, 32), (32, 1))
    for kind, values in (("L", ramp * 255), ("I;16", ramp * 65535), ("F", ramp)):
        dtype = {"L": np.uint8, "I;16": np.uint16, "F": np.float32}[kind]
        picture = open_image(Image.fromarray(values.astype(dtype)))
        assert np.abs(np.asarray(picture)[..., 0] - ramp * 255).max() <= 1, kind
    clear = open_image(Image.new("RGBA", (16, 16), (0, 0, 0, 0)))
    assert np.asarray(clear).min() == 255
    assert open_image(Image.new("CMYK", (16, 24))).size == (16, 24)


def test_upright_and_truncated_pictures(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (20, 40)
    Image.effect_noise((90, 90), 60).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:1500])
    with (
        Image.open(tmp_path / "cut.jpg") as opened,
        pytest.raises(cl.ImageError, match="cannot read image as an image"),
    ):
        open_image(opened)


def test_models(tmp_path: Path) -> None:
    with pytest.raises(cl.ModelError, match="has no model_index.json"):
        cl.load(tmp_path)
    with pytest.raises(cl.ModelError, match=r"cannot load model 'nobody/no-such-model' .no such folder, so a hub id."):
        cl.load("nobody/no-such-model")
    broken = {
        "{broken": "cannot load folder",
        "{}": "has no diffusion transformer",
        '{"_class_name": "FluxPipelin", "transformer": ["diffusers", "FluxTransformer2DModel"]}': "cannot load folder",
        '{"_class_name": "NoPipeline", "transformer": ["diffusers", "NoModel"]}': "no adapter for NoModel",
        '{"_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"]}': "cannot load folder",
    }
    for index, says in broken.items():
        (tmp_path / "model_index.json").write_text(index)
        with pytest.raises(cl.ModelError, match=says):
            cl.load(tmp_path)
    with pytest.raises(cl.ModelError, match="no device 'nope'. Use cpu"):
        cl.load(device="nope")
    pipeline = flux_pipeline()
    pipeline.transformer = torch.nn.Linear(2, 2)
    with pytest.raises(cl.ModelError, match="no adapter for Linear. Supported: AuraFlow.*SD3"):
        cl.load(pipeline)


def test_a_step_cache_is_refused(demo: Session) -> None:
    from diffusers import FirstBlockCacheConfig

    session = cl.load(flux_pipeline())
    session.pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(cl.ModelError, match="step cache"):
        session.generate("a red house", ["house", "sky"], height=16, width=16, num_inference_steps=2)


def test_block_level_group_offloading_is_refused() -> None:
    from diffusers.hooks import apply_group_offloading

    session = cl.load(flux_pipeline())
    options: dict[str, Any] = {"offload_type": "block_level", "num_blocks_per_group": 1}
    cpu = torch.device("cpu")
    apply_group_offloading(session.pipeline.transformer, onload_device=cpu, offload_device=cpu, **options)
    with pytest.raises(cl.ModelError, match="block-level group offloading"):
        session.generate("a red house", ["house", "sky"], height=16, width=16, num_inference_steps=1)


def test_reading_with_an_inpainting_model_is_refused() -> None:
    session = cl.load(flux_pipeline(in_channels=40, out_channels=16))
    with pytest.raises(cl.ModelError, match="takes 40 channels, an image alone has 16"):
        session.read(Image.new("RGB", (32, 32)))


def test_a_background_needs_another_word(demo: Session, picture: Image.Image) -> None:
    with pytest.raises(cl.ConceptError, match="the background has no word besides house"):
        demo.probe(demo.read(picture), ["house"], background=["house"])


def test_a_wrong_threshold_is_named(demo: Session, picture: Image.Image) -> None:
    with pytest.raises(cl.RecipeError, match="threshold must be 'mean', 'otsu', 'argmax' or a number"):
        demo.probe(demo.read(picture), ["house", "sky"]).mask("house", "ostu")


def test_two_readings_at_once_are_refused(demo: Session) -> None:
    from conceptlens.families import adapter_for
    from conceptlens.watch.recorder import Recorder

    adapter = adapter_for(demo.pipeline.transformer)
    options: dict[str, Any] = {"last": 1, "outputs": frozenset((1,))}
    with Recorder(adapter, lambda block, record: None, **options):
        with pytest.raises(cl.ModelError, match="being read already"), Recorder(adapter, lambda b, r: None, **options):
            pass
        assert hooks_left(demo) != []
    assert hooks_left(demo) == []


def test_an_interrupted_generation_gives_no_partial_map(demo: Session) -> None:
    def stop(pipeline: object, step: int, time: object, values: dict[str, object]) -> dict[str, object]:
        pipeline._interrupt = True  # type: ignore[attr-defined]
        return values

    with pytest.raises(cl.ModelError, match="maps would be partial"):
        demo.generate("a red house", ["house", "sky"], num_inference_steps=3, callback_on_step_end=stop)


def test_unwritable_folder_and_full_disk(
    demo: Session, picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = demo.probe(demo.read(picture), ["house", "sky"])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(cl.OutputError, match="cannot write to .*file"):
        maps.save(tmp_path / "file")
    with pytest.raises(cl.OutputError, match="Choose another folder"):
        maps.save("/proc/nowhere")

    maps.save(tmp_path / "full")
    before = {p.name: p.read_bytes() for p in (tmp_path / "full").iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("numpy.savez_compressed", full)
    with pytest.raises(cl.OutputError, match="No space left on device. Choose another folder, or make room there"):
        demo.probe(demo.read(picture), ["tree", "grass"]).save(tmp_path / "full")
    assert {p.name: p.read_bytes() for p in (tmp_path / "full").iterdir()} == before


def test_saving_again_replaces_only_its_own_files(demo: Session, picture: Image.Image, tmp_path: Path) -> None:
    record = demo.read(picture)
    (tmp_path / "mine.part").write_text("keep")
    demo.probe(record, ["house", "sky", "grass"]).save(tmp_path)
    demo.probe(record, ["tree", "sky"]).save(tmp_path)
    names = {p.name for p in tmp_path.iterdir()}
    assert "mine.part" in names
    assert "mask-0-tree.png" in names
    assert not names & {"mask-0-house.png", "mask-2-grass.png"}
    assert not [n for n in names if n.startswith(".conceptlens")]


def test_hostile_and_damaged_records(demo: Session, picture: Image.Image, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    with pytest.raises(cl.ImageError, match="no record at"):
        demo.load_record(tmp_path / "none")
    (tmp_path / "text").write_text("no record")
    with pytest.raises(cl.ImageError, match="cannot read the record"):
        demo.load_record(tmp_path / "text")
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "foreign")
    with pytest.raises(cl.ImageError, match="is no record of conceptlens"):
        demo.load_record(tmp_path / "foreign")
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "bare", {"format": "conceptlens-record-1", "header": "{}"})
    with pytest.raises(cl.ImageError, match="Make it again"):
        demo.load_record(tmp_path / "bare")
    path = demo.save_record(demo.read(picture), tmp_path / "cut")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(cl.ImageError, match="cannot read the record"):
        demo.load_record(path)
