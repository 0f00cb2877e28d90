"""Cross attention of words in transformers of fixed text, against the layers' own outputs and against formulas."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import EDMEulerScheduler
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from test_methods import picture
from torch import Tensor

import conceptlens as cl
from command_line import here
from conceptlens.bench.report import Report
from conceptlens.bench.runs import run
from conceptlens.bench.scorer import RunSpec
from conceptlens.diagnosis import doctor
from conceptlens.families.cross import cross_layouts
from conceptlens.families.kinds.cross_attention import painted_area, text_call, token_side
from conceptlens.families.kinds.tokens import EncodedText, tokens_between
from conceptlens.methods import method_named
from conceptlens.methods.concept_cross_attention import ConceptCrossAttention
from conceptlens.readers.cross import (
    CrossReader,
    encode_concepts,
    load_cross,
    watch_cross_layers,
)
from conceptlens.values.errors import ConceptError, ModelError, RecipeError
from conceptlens.values.records import TokenGrid
from cross_by_hand import Call, expected, mixed
from tiny_cross import PIPELINES, saved, wan_pipeline
from tiny_cross_painting import PAINTED, PROMPT, painted, without_some_packages
from tiny_models import flux_pipeline, word_tokenizer
from tiny_unets import sd2_pipeline

NOISED_BY_STEPS = ("pixart", "pixart-alpha", "latte", "hunyuan-dit", "allegro")
"""The others are flow models."""
BARS = {torch.float32: 1e-5, torch.float64: 1e-10}


@pytest.fixture(autouse=True, scope="module")
def packages() -> Iterator[None]:
    with without_some_packages():
        yield


@pytest.fixture(scope="module", params=PIPELINES, ids=str)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(family: str) -> CrossReader:
    loaded = load_cross(PIPELINES[family]())
    width, height = PAINTED[family]
    loaded.defaults.generate.update(width=width, height=height)  # type: ignore[attr-defined]
    return loaded


def in_precision(family: str, dtype: torch.dtype) -> CrossReader:
    """A tiny model of a dtype; some families always take the time and their norms in float32."""
    pipeline = PIPELINES[family]().to(dtype)
    if family.startswith("kandinsky-5"):
        pipeline.transformer.time_embeddings.float()
        for name, module in pipeline.transformer.named_modules():
            if name.endswith(("query_norm", "key_norm")):
                module.float()
    return load_cross(pipeline)


@pytest.mark.parametrize("dtype", BARS, ids=str)
def test_with_the_prompt_as_the_concept_it_is_the_models_own_attention(family: str, dtype: torch.dtype) -> None:
    model = in_precision(family, dtype)
    layers = tuple(range(model.depth))
    calls: dict[int, Call] = {}

    def keep(number: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Tensor) -> None:
            named = {**dict(zip(("hidden_states", "encoder_hidden_states"), args, strict=False)), **kwargs}
            mask = named.get("attention_mask", named.get("attn_mask"))
            rotary = named.get("image_rotary_emb", named.get("query_rotary_emb"))
            calls[number] = Call(module, named["hidden_states"], named["encoder_hidden_states"], mask, rotary, output)

        return hook

    attention = model.layout.layers(model.pipeline.transformer)
    arguments = text_call(model.pipeline, model.layout, PROMPT, PAINTED[family], {}).arguments
    handles = [attention[n].register_forward_hook(keep(n), with_kwargs=True) for n in layers]
    with torch.no_grad(), watch_cross_layers(model.layout, model.pipeline.transformer, layers) as seen:
        model.pipeline.transformer(**arguments)
    for handle in handles:
        handle.remove()
    side, (width, height) = token_side(model.pipeline), PAINTED[family]
    (concept,) = encode_concepts(model, [PROMPT], layers, grid=TokenGrid(height // side, width // side))
    for n in layers:
        found, output = seen[n][0].probabilities(concept.layers[n]), calls[n].output
        with torch.no_grad():
            wanted, own = expected(family, calls[n]), mixed(family, calls[n], found)
        assert found.dtype == dtype
        assert (found - wanted).abs().max() < BARS[dtype]
        assert (own - output).abs().max() < BARS[dtype] * max(1.0, float(output.abs().max()))
        assert concept.layers[n].key.equal(seen[n][0].key)


def test_the_maps_are_the_mean_over_own_tokens_heads_layers_and_draws(family: str, model: CrossReader) -> None:
    method = ConceptCrossAttention(model, samples=2, noise=0.3)
    stored = method.store(picture(), seed=5)
    maps = method.attribute(stored, ["red house"])
    (concept,) = encode_concepts(model, ["red house"], range(model.depth), noise=0.3, grid=stored.grid)
    shares = []
    for number in range(2):
        for layer, text in zip((each.draw(number) for each in model.layers_of(stored)), concept.layers, strict=True):
            scores = layer.query @ text.key.mT / math.sqrt(layer.query.shape[-1])
            scores = scores if text.bias is None else scores + text.bias
            if layer.image_key is not None:  # one softmax of text and image
                rest = layer.query @ layer.image_key.mT / math.sqrt(layer.query.shape[-1])
                scores = torch.cat([scores, rest], dim=-1)
            shares.append(F.softmax(scores, dim=-1)[..., list(concept.rows)])
    wanted = torch.stack(shares).mean(dim=(0, 1, 2, 4)).view(stored.grid.rows, stored.grid.cols)
    assert torch.allclose(maps.scores[0], wanted, atol=1e-6)
    words, pieces = ["red", "house"], ["▁red", "▁house"]
    told = {
        "hunyuan-dit": [*words, *pieces],
        **dict.fromkeys(("kandinsky-5", "kandinsky-5-image", "kandinsky-6", "nucleus"), words),
    }
    assert maps.details["tokens"]["red house"] == told.get(family, pieces)
    assert not stored.layers[0].part("query")[0].equal(stored.layers[0].part("query")[1])


def test_the_rows_of_a_concept_are_those_of_its_words(family: str, model: CrossReader) -> None:
    """Where one word is exchanged, its row of the text changes most."""
    texts = [
        text_call(model.pipeline, model.layout, words, PAINTED[family], {}).arguments["encoder_hidden_states"]
        for words in ("red house", "sun house", "red sun")
    ]
    change = [(texts[0] - other).flatten(0, -3).sum(dim=0).norm(dim=-1).argmax() for other in texts[1:]]
    (concept,) = encode_concepts(model, ["red house"], (0,))
    assert concept.rows[:2] == tuple(map(int, change))


def test_words_asked_later_are_the_bits_of_words_asked_at_once(model: CrossReader) -> None:
    method = ConceptCrossAttention(model)
    stored = method.store(picture(), prompt=PROMPT, seed=3)
    method.attribute(stored, ["sky"])
    later = method.attribute(stored, ["tree", "house"])
    at_once = method.explain(picture(), ["house", "sun", "tree"], prompt=PROMPT, seed=3)
    assert later.scores[0].equal(at_once.scores[2])
    assert later.scores[1].equal(at_once.scores[0])


def test_a_partial_forward_leaves_the_queries_of_the_whole_one(model: CrossReader) -> None:
    whole = ConceptCrossAttention(model).store(picture())
    part = ConceptCrossAttention(model, layers=(1, -2)).store(picture())
    chosen = sorted({1, model.depth - 2})
    assert [layer.layer for layer in part.layers] == chosen
    for layer in part.layers:
        assert layer.part("query").equal(whole.layers[layer.layer].part("query"))


def test_the_picture_is_the_same_bit_for_bit(family: str, model: CrossReader) -> None:
    transformer = model.pipeline.transformer
    attention = model.layout.layers(transformer)
    processors = [module.processor for module in attention]
    before = painted(model, family)
    with watch_cross_layers(model.layout, transformer, range(model.depth)) as seen:
        watched = painted(model, family)
    assert len(seen[0]) >= 2
    ConceptCrossAttention(model).explain(picture(), ["house"])
    after = painted(model, family)
    assert before.equal(watched)
    assert before.equal(after)
    assert all(module.processor is own for module, own in zip(attention, processors, strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in transformer.modules())


def test_a_size_is_known_without_being_asked_for(model: CrossReader) -> None:
    assert painted_area(model.pipeline, model.layout) >= 64**2


def test_the_grid_is_that_of_the_picture_the_right_way_round(family: str, model: CrossReader) -> None:
    width, height = PAINTED[family]
    plain = Image.new("RGB", (width, height), (90, 120, 60))
    marked = plain.copy()
    marked.paste((255, 255, 255), (3 * width // 4, 0, width, height // 4))
    recipe = model.recipe(None, {"noise": 0.0, "layers": (0,)})
    one, other = (model.read(image, "", recipe, 0, {}) for image in (plain, marked))
    assert one.grid.rows * width == one.grid.cols * height
    change = (one.layers[0].part("query") - other.layers[0].part("query")).norm(dim=-1).mean(dim=(0, 1))
    row, col = divmod(int(change.argmax()), one.grid.cols)
    assert row < one.grid.rows / 2
    assert col >= one.grid.cols / 2


@pytest.mark.parametrize("noise", [0.25, 1.0])
def test_the_noise_level_reaches_the_model(family: str, model: CrossReader, noise: float) -> None:
    """The timestep as the pipeline would hand it on, and the noise itself where it is all there is."""
    seen: dict[str, Tensor] = {}
    twins: set[str] = set()

    def hear(module: Any, args: Any, kwargs: Any) -> None:
        named = dict(zip(("hidden_states", "timestep"), args, strict=False)) | kwargs
        seen.update(timestep=named["timestep"], latents=named["hidden_states"])
        twins.update(name for name in ("r_timestep", "sigma") if name in named and named[name].equal(named["timestep"]))

    transformer = model.pipeline.transformer
    method = ConceptCrossAttention(model, noise=noise)
    handle = transformer.register_forward_pre_hook(hear, with_kwargs=True)
    try:
        method.store(picture())
        one = seen["latents"]
        method.store(picture().transpose(Image.Transpose.ROTATE_180))
    finally:
        handle.remove()
    told = {"sana": 500 * noise, "lumina-next": 1 - noise, "cosmos": noise, "prx": noise, "nucleus": noise}.get(
        family, 1000 * noise
    )
    assert abs(float(seen["timestep"].flatten()[0]) - told) <= max(1, told) / 1000
    assert twins == {"any-flow": {"r_timestep"}, "any-flow-far": {"r_timestep"}, "ltx-2": {"sigma"}}.get(family, set())
    assert torch.equal(one, seen["latents"]) is (family not in NOISED_BY_STEPS and noise == 1.0)


def test_keys_are_of_the_noise_level_where_the_model_tells_its_text(family: str, model: CrossReader) -> None:
    one, other = (next(encode_concepts(model, ["house"], (0,), noise=noise)).layers[0].key for noise in (0.2, 0.7))
    assert one.equal(other) is (family not in ("kandinsky-5", "kandinsky-5-image", "kandinsky-6", "ltx-2"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("pixart", tmp_path_factory.mktemp("cross") / "pixart")


def test_wrong_use_is_one_clear_line(folder: Path, tmp_path: Path) -> None:
    flux_pipeline().save_pretrained(tmp_path / "flux")
    sd2_pipeline().save_pretrained(tmp_path / "sd2")
    method = method_named("concept-cross-attention")
    opened = method.load(str(folder), device="cpu")
    two = wan_pipeline()
    two.register_modules(transformer_2=two.transformer)
    sparse, steep = PIPELINES["kandinsky-5"](), PIPELINES["cosmos"]()
    sparse.transformer.register_to_config(attention_type="nabla")
    steep.scheduler = EDMEulerScheduler()

    def flux() -> Any:
        return method.load(str(tmp_path / "flux"))

    wrong = [
        (ModelError, "FluxTransformer2DModel .dual stream.*concept-attention", flux),
        (
            ModelError,
            "UNet2DConditionModel .*finds any words",
            lambda: method.load(str(tmp_path / "sd2")),
        ),
        (ModelError, "UNet2DConditionModel .*finds any words", lambda: load_cross(sd2_pipeline())),
        (ModelError, "got a str. Open it with load", lambda: ConceptCrossAttention(str(folder))),
        (ModelError, "two transformers", lambda: load_cross(two)),
        (ModelError, "into blocks for sparse attention", lambda: load_cross(sparse)),
        (ModelError, "noises pictures as EDMEulerScheduler", lambda: load_cross(steep)),
        (ConceptError, "does not fit in 300 tokens", lambda: opened.explain(picture(), ["house " * 400])),
        (ConceptError, "given twice", lambda: opened.explain(picture(), ["house", "house"])),
        (RecipeError, "layers has 3, but there are 3 blocks", lambda: method.load(str(folder), layers=(3,))),
        (RecipeError, "list of whole numbers", lambda: method.load(str(folder), layers=1)),
        (RecipeError, "noise must be from 0 to 1", lambda: method.load(str(folder), noise=2.0)),
        (ModelError, "no single-stream blocks", lambda: cl.load(folder, single_stream=True)),
    ]
    for kind, says, asked in wrong:
        with pytest.raises(kind, match=says) as failed:
            asked()
        assert "\n" not in str(failed.value)
    stored = opened.store(picture())  # type: ignore[attr-defined]
    with pytest.raises(RecipeError, match="Store it again"):
        method.load(str(folder), layers=(0,)).attribute(stored, ["house"])  # type: ignore[attr-defined]


def test_attention_that_cannot_be_seen_is_an_error(folder: Path) -> None:
    method = method_named("concept-cross-attention").load(str(folder), device="cpu")
    method._reader.pipeline.transformer.set_attn_processor(AttnProcessor())  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="block 0 was expected to attend to text once .* 0 were seen"):
        method.explain(picture(), ["house"])


def test_a_template_that_ends_in_a_space_melts_into_the_concept() -> None:
    words = word_tokenizer()

    def read(*pieces: str) -> EncodedText:
        ids: Any = words.convert_tokens_to_ids(list(pieces))
        return EncodedText(torch.tensor([*ids, 1, 1]), tuple(ids), 0)

    own = tokens_between(words, "house", read("describe", "house"), read("describe", "on"), 8)
    assert (own.positions, own.pieces) == ((1,), ("house",))


def test_the_command_line_reads_a_photo(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(80, 64).save(tmp_path / "photo.png")
    options = ["--method", "concept-cross-attention", "--model", str(folder), "--out", str(tmp_path / "out"), "--json"]
    photo = str(tmp_path / "photo.png")
    assert here(monkeypatch, "read", photo, "-c", "house", "--layers", "0,-1", *options) == 0
    told = json.loads((tmp_path / "out" / "maps.json").read_text())
    assert told["settings"] == {"noise": 0.5, "samples": 1, "layers": [0, 2]}
    assert told["tokens"] == {"house": ["▁house"]}


def test_the_bench_scores_it(folder: Path) -> None:
    report = Report(*run(RunSpec("scenes", "concept-cross-attention", model=str(folder)), limit=1))
    assert 0 <= report.rows[0]["scores"]["accuracy"] <= 1


def test_every_class_that_is_read_has_a_pipeline_and_every_pipeline_its_class() -> None:
    built = {type(build().transformer).__name__ for build in PIPELINES.values()}
    assert built == set(cross_layouts()), "add a tiny pipeline to tests/tiny_cross.py, or remove one"


def test_doctor_names_the_method_for_the_classes_it_serves(folder: Path) -> None:
    for name in cross_layouts():
        found = doctor(name)
        assert found.method == "concept-cross-attention"
        assert "conceptlens read PHOTO -c WORD --model MODEL, which is the method" in found.instead
    assert "maps of any words in a picture, by its cross attention" in doctor(folder).describe()
    assert doctor("UNet2DConditionModel").method == "daam"
    for name in ("ChronoEditTransformer3DModel", "QwenImage21Transformer2DModel"):
        assert doctor(name).method is None
