"""The doctor's word is kept: what it says works does, what it counts is there, what it refuses has a reason."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image

import conceptlens as cl
from conceptlens import diagnosis
from conceptlens.bench.scorer import PACKAGES
from conceptlens.diagnosis import doctor, served
from conceptlens.families import group_of, known_classes, registered
from conceptlens.families.cross import cross_layouts
from conceptlens.families.groups import GROUPS
from conceptlens.methods import method_named
from conceptlens.readers.loading import demo_folder
from conceptlens.values import listings
from conceptlens.values.errors import ModelError
from specimens import SPECIMENS, dry_run, required_settings
from specimens.families import sd3_transformer
from tiny_models import cogvideox_pipeline, flux_pipeline, sd3_pipeline

ROOT = Path(__file__).parents[2]


def one_of_each_group() -> list[Any]:
    """All classes, of which the first of each group is examined in every run and the others in the slow one."""
    first = {group_of(name).name: name for name in sorted(registered(), reverse=True)}
    quick = set(first.values())
    return [pytest.param(n, marks=[] if n in quick else [pytest.mark.slow]) for n in sorted(registered())]


@pytest.mark.parametrize("name", one_of_each_group())
def test_a_class_is_described_as_a_fresh_examination_finds_it(name: str) -> None:
    listed = listings.tested(name)
    assert listed, "run: python benchmarks/models.py"
    fresh, found = dry_run(SPECIMENS[name]), doctor(name)
    seen = json.loads(json.dumps({**asdict(found), **fresh, "ok": True}))
    assert {**listed, "own_text_error": 0} == {**seen, "own_text_error": 0}, "run: python benchmarks/models.py"
    required = json.loads(json.dumps(required_settings(SPECIMENS[name])))
    assert listings.required_settings(name) == required, "run: python benchmarks/models.py"
    assert listed["own_text_error"] == found.own_text_error
    assert max(listed["own_text_error"], fresh["own_text_error"]) < 1e-5
    assert fresh["captured"] == (4 if found.tier == "adapter" else 3)
    assert found.ok
    assert found.blocks == len(found_blocks(name))
    assert group_of(name).applies


def test_it_is_said_with_which_versions_a_class_was_examined() -> None:
    versions = listings.versions()
    assert tuple(versions) == PACKAGES
    release, below = versions["conceptlens"], versions["diffusers"]
    says = f"on tiny random weights, in the tests of conceptlens {release} (diffusers {below})"
    assert says in doctor("FluxTransformer2DModel").describe()


def test_a_class_that_the_tests_do_not_examine_is_not_said_to_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "tested", lambda name: None)
    found = doctor("FluxTransformer2DModel")
    assert (found.ok, found.captured, found.expected, found.own_text_error) == (False, 0, 19, None)
    assert found.instead == "Load the pipeline and ask again with it."


def found_blocks(name: str) -> list[str]:
    """The blocks of the class in its default depth, counted by their names."""
    with torch.device("meta"):
        open_: dict[str, Any] = {"EasyAnimate": {"patch_size": 2, "in_channels": 16, "out_channels": 16}}
        open_["HiDreamImage"] = {"patch_size": 2, "caption_channels": [16, 16]}
        open_ = open_.get(name.partition("Transformer")[0], {})
        model = getattr(diffusers, name)(**open_)
    parts = (
        "joint_transformer_blocks",
        "transformer_blocks",
        "double_blocks",
        "double_stream_blocks",
        "single_transformer_blocks",
        "layers",
    )
    part = next(p for p in parts if hasattr(model, p))
    return [key for key, _ in getattr(model, part).named_children()]


def test_the_memory_of_a_reading_is_what_the_record_holds() -> None:
    found = doctor(demo_folder(), height=64, width=64)
    assert found.tried_on == "the model itself"
    session = cl.load(device="cpu")
    record = session.read(image_of(64))
    assert (found.tokens, found.record_bytes) == (record.grid.tokens, record.nbytes)
    assert found.recipe == session.recipe()


def image_of(side: int) -> Image.Image:
    return Image.new("RGB", (side, side), "white")


def test_a_loaded_pipeline_is_tried_itself_and_its_state_is_told() -> None:
    assert doctor(sd3_pipeline()).captured == 4
    assert doctor(cogvideox_pipeline(), frames=3).ok
    pipeline = flux_pipeline()
    pipeline.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.1))
    found = doctor(pipeline)
    assert not found.ok
    assert found.captured == 0
    assert "step cache" in found.describe()


def test_a_folder_is_read_without_opening_big_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sd3_transformer(num_layers=3).save_pretrained(tmp_path / "transformer")
    assert doctor(tmp_path / "transformer").blocks == 3
    folder = tmp_path / "demo"
    shutil.copytree(demo_folder(), folder)
    monkeypatch.setattr(diagnosis, "SMALL", 0)
    found = doctor(folder)
    assert found.tried_on.startswith("tiny random weights, in the tests of conceptlens ")
    assert found.blocks == 6
    (folder / "transformer" / "config.json").write_text("{")
    with pytest.raises(ModelError, match="transformer/config.json is damaged"):
        doctor(folder)


def test_a_folder_of_configs_is_examined_without_weights(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(demo_folder(), tmp_path / "demo"))
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    found, whole = doctor(folder, height=64, width=64), doctor(demo_folder(), height=64, width=64)
    assert found.ok
    assert found.lacking == ("text_encoder", "text_encoder_2", "transformer", "vae")
    assert "weights      none in text_encoder, text_encoder_2, transformer, vae, so only" in found.describe()
    assert (found.blocks, found.recipe, whole.lacking) == (whole.blocks, whole.recipe, ())
    config = folder / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"num_attention_heads": 4', '"num_attention_heads": "four"'))
    with pytest.raises(ModelError, match=r"the config.json of demo describes no FluxTransformer2DModel: "):
        doctor(folder)
    (folder / "model_index.json").write_text("[]")
    with pytest.raises(ModelError, match=r"model_index.json is damaged .a JSON object is needed"):
        doctor(folder)


def test_where_the_method_cannot_apply_the_doctor_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    wan, blind = (doctor(name) for name in ("WanTransformer3DModel", "QwenImage21Transformer2DModel"))
    assert not wan.applies
    assert "cross attention" in wan.describe()
    assert "causal mask" in blind.describe()
    monkeypatch.setattr(diagnosis, "registered", dict)
    dual = doctor("BriaTransformer2DModel")
    assert dual.applies
    assert not dual.ok
    assert "Add a file" in dual.instead
    assert group_of("NothingTransformer2DModel").name == "unknown"
    with pytest.raises(ModelError, match="is no transformer class of diffusers, and no hub id: cannot load"):
        doctor("no-such-thing")
    with pytest.raises(ModelError, match="'fluxtransformer2dmodel' .* Did you mean FluxTransformer2DModel"):
        doctor("fluxtransformer2dmodel")
    with pytest.raises(ModelError, match="no model was named"):
        doctor("")
    with pytest.raises(ModelError, match="FluxPipeline is a pipeline. Give an open one, or the class of its transform"):
        doctor("FluxPipeline")
    unet = doctor("demo-unet")
    assert unet.group == "cross attention of a U-Net"
    assert unet.method == "daam"
    says = "demo-unet: maps of the prompt's words as it paints, and of any words in a picture"
    assert unet.describe().splitlines()[0] == says
    assert "conceptlens read PHOTO -c WORD --model MODEL finds any words" in unet.instead
    assert method_named("daam").load("demo-unet", device="cpu").model_id == "demo-unet"


def test_every_class_that_is_served_is_listed_in_order() -> None:
    assert [told["transformer"] for told in listings.transformers()] == list(served())


def test_the_groups_name_classes_that_exist_once() -> None:
    unserved = [name for group in GROUPS for name in group.unserved]
    assert len(unserved) == len(set(unserved))
    assert not {*unserved} & {*registered(), *cross_layouts()}
    assert not {*registered()} & {*cross_layouts()}
    assert {*unserved, *registered(), *cross_layouts()} == set(known_classes())
    assert [name for name in known_classes() if not hasattr(diffusers, name)] == []


def test_the_page_of_models_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("models_page", ROOT / "benchmarks" / "models.py")
    assert spec
    assert spec.loader
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    written = page.TARGET.read_text(encoding="utf-8")
    assert written == page.render(listings.transformers()), "run: python benchmarks/models.py"


def test_the_embedded_model_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = cl.doctor("demo")
    assert found.ok
    assert found.adapter == "FLUX.1"
    assert cl.load("demo", device="cpu").model_id == "demo"
    (tmp_path / "demo").mkdir()
    with pytest.raises(cl.ModelError, match="demo is no"):  # a folder of this name comes first
        cl.load("demo")
